"""Flow-Priors (arXiv 2405.18816): maximum a posteriori along the flow, one small problem per time step.

At each time t with u = t + 1/N, Adam descends from the current x on

    lam ||H(x + v/N) - (u y + (1 - u) H(x0))||^2 - log p_t(x) + tr(dv/dx) / N,    v = v(x, t, t),

before x <- x + v/N. The gradient of log p_t is (t v - x)/(1 - t); the trace is Hutchinson's and has its own gradient.
"""

import jax
import jax.numpy as jnp
import optax

from fmdp.errors import Range
from fmdp.operators.noise import Observation
from fmdp.solvers.base import Info, run_scan, solver, starting_noise
from fmdp.types import AverageField, Image, PRNGKey, Scalar

STATIC = ("steps", "inner", "keep")


@solver(
    ranges={"steps": Range(1), "inner": Range(1), "lam": Range(0), "eta": Range(0)},
    linear=True,
)
def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 100,
    lam: float | Scalar = 1e5,
    inner: int = 1,
    eta: float | Scalar = 1e-2,
    noise: Image | None = None,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored from noise at time 0, for linear operators.

    Args:
      steps: N.
      lam: weight of the data.
      inner: Adam steps per time step (K). Each moves every pixel by about eta.
      eta: Adam's step size.
      noise: [H, W, C], the starting point; drawn from the key by default.
      keep: whether info holds all iterates.

    Raises:
      InputError: an operator that is not linear, options out of range, or shapes that do not fit.
    """
    H, y = observation.operator, observation.y
    start_key, probe_key = jax.random.split(key)
    start = starting_noise("flow_priors", noise, H.image_shape, start_key)
    unmeasured = H(start)
    adam = optax.adam(eta)

    def objective(x, t, probe):
        v, along = jax.jvp(lambda x: field(x, t, t), (x,), (probe,))
        u = t + 1 / steps
        misfit = observation.whiten(H(x + v / steps) - (u * y + (1 - u) * unmeasured))
        score = jax.lax.stop_gradient((t * v - x) / (1 - t))
        return lam * jnp.sum(jnp.square(misfit)) - jnp.sum(score * x) + jnp.sum(along * probe) / steps

    def step(x, given):
        t, keys = given

        def descend(carry, key):
            x, state = carry
            probe = jax.random.rademacher(key, x.shape, x.dtype)
            update, state = adam.update(jax.grad(objective)(x, t, probe), state)
            return (optax.apply_updates(x, update), state), None

        (x, _), _ = jax.lax.scan(descend, (x, adam.init(x)), keys)
        return x + field(x, t, t) / steps

    inputs = (jnp.arange(steps) / steps, jax.random.split(probe_key, (steps, inner)))
    # A Jacobian-vector product costs about one evaluation more.
    evaluations = steps * (2 * inner + 1)
    return run_scan(step, start, inputs, observation, evaluations=evaluations, gradients=2 * steps * inner, keep=keep)
