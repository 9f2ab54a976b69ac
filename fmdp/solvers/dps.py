"""Diffusion posterior sampling (arXiv 2209.14687) along a flow, whose velocity is corrected towards the measurement.

With m = x + (1 - t) v(x, t, t):  dx/dt = v - eta grad_x ||y - H(m)||.
"""

import jax
import jax.numpy as jnp

from fmdp.errors import Range
from fmdp.operators.noise import Observation
from fmdp.solvers.base import Info, run_scan, solver, starting_noise
from fmdp.types import AverageField, Image, PRNGKey, Scalar

STATIC = ("steps", "keep")


@solver(ranges={"steps": Range(1), "eta": Range(0)})
def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 100,
    eta: float | Scalar = 100.0,
    noise: Image | None = None,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored by Euler steps from noise at time 0 to time 1, for any operator and noise model.

    Args:
      steps: each takes one evaluation and its gradient.
      eta: strength of the correction, 100 to 1000 in the published runs; the norm is over this one image.
      noise: [H, W, C], the starting point; drawn from the key by default.
      keep: whether info holds all iterates.

    Raises:
      InputError: options out of range, or shapes that do not fit.
    """

    def misfit(x, t):
        v = field(x, t, t)
        misfit = observation.y - observation.operator.surrogate(x + (1 - t) * v)
        return jnp.sum(jnp.square(observation.whiten(misfit))), v

    def step(x, t):
        (square, v), slope = jax.value_and_grad(misfit, has_aux=True)(x, t)
        size = 2 * jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
        return x + (v - eta * slope / size) / steps

    x = starting_noise("dps", noise, observation.operator.image_shape, key)
    times = jnp.arange(steps) / steps
    return run_scan(step, x, times, observation, evaluations=steps, gradients=steps, keep=keep)
