"""OT-ODE (arXiv 2310.04432): the flow equation, with a velocity corrected by a Gaussian guess of the posterior.

With m = x + (1 - t) v(x, t, t) and r^2 = (1 - t)^2 / ((1 - t)^2 + t^2) the spread of x1 about it,

    dx/dt = v + gamma_t (1 - t)/t  dm/dx' H' (r^2 H H' + sigma^2 I)^{-1} (y - H m).

Conjugate gradients solve the linear system (`base.covariance_solver`).
"""

from functools import partial

import jax
import jax.numpy as jnp

from fmdp.errors import Range
from fmdp.flow.average_field import denoise
from fmdp.operators.base import adjoint
from fmdp.operators.noise import Observation
from fmdp.solvers.base import Info, back_projection, covariance_solver, run_scan, solver, starting_noise
from fmdp.types import AverageField, Image, PRNGKey, Scalar

STATIC = ("steps", "adaptive", "keep")


@solver(ranges={"steps": Range(1), "start": Range(1e-4, 1 - 1e-4)}, linear=True)
def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 100,
    start: float | Scalar = 0.2,
    adaptive: bool = True,
    noise: Image | None = None,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored by Euler steps from x = start H'y + (1 - start) noise, for linear operators.

    H'y is scaled to an operator of norm 1, and weighted by precision (`base.back_projection`).

    Args:
      steps: of equal length, from the time `start` to 1; each takes one evaluation and its gradient.
      start: in (0, 1).
      adaptive: gamma_t = sqrt(t / (t^2 + (1 - t)^2)) as in the published runs, otherwise 1.
      noise: [H, W, C]; drawn from the key by default.
      keep: whether info holds all iterates.

    Raises:
      InputError: an operator that is not linear, options out of range, or shapes that do not fit.
    """
    H, back = observation.operator, partial(adjoint, observation.operator)
    noise = starting_noise("ot_ode", noise, H.image_shape, key)
    solve_misfit = covariance_solver(observation)
    length = (1 - start) / steps
    times = start + length * jnp.arange(steps)

    def step(x, t):
        total = (1 - t) ** 2 + t**2
        mean, pull = jax.vjp(lambda x: denoise(field, x, t, t), x)
        misfit = solve_misfit((1 - t) ** 2 / total, observation.y - H(mean))
        (correction,) = pull(back(misfit))
        gamma = jnp.sqrt(t / total) if adaptive else 1.0
        return x + length * ((mean - x) / (1 - t) + gamma * (1 - t) / t * correction)

    x = start * back_projection(observation) + (1 - start) * noise
    return run_scan(step, x, times, observation, evaluations=steps, gradients=steps, keep=keep)
