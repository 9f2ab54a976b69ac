"""D-Flow (arXiv 2402.14017): optimise the starting noise of the flow until its end fits the measurement.

L-BFGS on ||y - H(F(x0))||^2 + lam R(x0), where F is the flow by midpoint steps and R = r^2/2 - (n - 1) log r with
r = ||x0|| is the negative log-density of the norm of n normal numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fmdp.errors import Range
from fmdp.operators.noise import Observation
from fmdp.solvers.base import Info, back_projection, run_scan, solver
from fmdp.types import AverageField, Image, PRNGKey, Scalar


def integrate(field: AverageField, x: Array, times: Array) -> Array:
    """The flow of b(x, t) = v(x, t, t) from the first to the last of the times, which may run backwards (midpoint)."""

    def step(x, interval):
        s, t = interval
        middle = (s + t) / 2
        half = x + (middle - s) * field(x, s, s)
        return x + (t - s) * field(half, middle, middle), None

    return jax.lax.scan(jax.checkpoint(step), x, (times[:-1], times[1:]))[0]


STATIC = ("steps", "points", "keep")


@solver(ranges={"steps": Range(1), "points": Range(2), "blend": Range(0, 1), "lam": Range(0)})
def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 20,
    points: int = 6,
    lam: float | Scalar = 0.01,
    blend: float | Scalar = 0.1,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored, for any operator and noise model (their energy replaces the square).

    Restore several images with `lax.map`, not with vmap: the line search branches, and under vmap JAX would copy the
    parameters of the network for every image.

    Args:
      steps: of L-BFGS, each with a line search, so that info.evaluations differs from image to image.
      points: of the midpoint rule from time 0 to 1, with two evaluations in each interval between them.
      lam: weight of the prior on the norm.
      blend: share of the starting noise's variance that comes from H'y (`base.back_projection`) carried back by the
        flow; the rest is new noise.
      keep: whether info holds all iterates.

    Raises:
      InputError: options out of range, or shapes that do not fit.
    """
    times = jnp.linspace(0.0, 1.0, points)
    shape = observation.operator.image_shape
    size = shape[0] * shape[1] * shape[2]
    at = None if observation.operator.linear else jnp.zeros(shape)
    behind = integrate(field, back_projection(observation, at), times[::-1])
    start = jnp.sqrt(blend) * behind + jnp.sqrt(1 - blend) * jax.random.normal(key, shape)

    def loss(x0):
        square = jnp.sum(jnp.square(x0))
        prior = square / 2 - (size - 1) / 2 * jnp.log(square)
        return observation.energy(integrate(field, x0, times)) + lam * prior

    lbfgs = optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(10, initial_guess_strategy="one"))
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        x0, state, runs = carry
        value, slope = value_and_grad(x0, state=state)
        update, state = lbfgs.update(slope, state, x0, value=value, grad=slope, value_fn=loss)
        x0 = optax.apply_updates(x0, update)
        return x0, state, runs + optax.tree.get(state, "num_linesearch_steps")

    carry = (start, lbfgs.init(start), jnp.asarray(1))  # the first value is not part of a line search
    options: dict[str, Any] = dict(evaluations=0, keep=keep, view=lambda c: integrate(field, c[0], times))
    (x0, _, runs), info = run_scan(step, carry, jnp.arange(steps), observation, **options)
    each = 2 * (points - 1)
    # Beside the searches: backwards for the start, once a step for the report, and for the image itself.
    info = info._replace(evaluations=each * (runs + steps + 2), gradients=each * runs)
    return integrate(field, x0, times), info
