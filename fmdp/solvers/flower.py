"""Flower (arXiv 2509.26287): denoise, refine by a Gaussian posterior around the estimate, return to the path.

With m = D_{s,t}(x) and the spread nu = (1 - s) / sqrt(s^2 + (1 - s)^2) around it, the refined image is a draw from, or
the mean of, the distribution with density proportional to exp(-||x - m||^2 / (2 nu^2) - ||y - H x||^2 / (2 sigma^2)).
Conjugate gradients solve (nu^2 H H' + sigma^2) r = y - H m, and x = m + nu^2 H'r, with draws around y and m in their
place. What the measurement does not determine thus stays as it is at every sigma. Without noise, H x = y.
"""

from functools import partial

import jax
import jax.numpy as jnp

from fmdp.errors import Range
from fmdp.flow.average_field import denoise
from fmdp.operators.base import adjoint
from fmdp.operators.noise import Observation
from fmdp.solvers.base import Info, covariance_solver, run_scan, solver
from fmdp.solvers.pnp import KNOBS
from fmdp.types import AverageField, Image, PRNGKey, Scalar

STATIC = ("steps", "knob", "keep")
RESOLVED = 1e-6  # the least sigma^2 / (nu ||H||)^2 of a refinement: float32 solves no worse-conditioned system


@solver(
    ranges={"steps": Range(1), "lookahead": Range(0, 1), "spread": Range(0, 1)},
    choices={"knob": tuple(KNOBS)},
    linear=True,
)
def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 100,
    lookahead: float | Scalar = 0.0,
    knob: str = "additive",
    spread: float | Scalar = 0.0,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored from noise at time 0, for linear operators.

    Args:
      steps: each takes one evaluation.
      lookahead, knob: as in `pnp.solve`; 0, as published, is t = s.
      spread: of the draw, from 0 (its mean, the published default) to 1 (published as flower_cov).
      keep: whether info holds all iterates, here the refined images.

    Raises:
      InputError: an operator that is not linear, or options and shapes that do not fit.
    """
    H, y, variance = observation.operator, observation.y, observation.noise.variance
    back, solve_misfit = partial(adjoint, H), covariance_solver(observation, RESOLVED)
    start_key, step_key = jax.random.split(key)

    def refine(center, nu2, shaken):
        """argmin_z ||z - center||^2 / (2 nu^2) + ||shaken - H z||^2 / (2 sigma^2)."""
        return center + nu2 * back(solve_misfit(nu2, shaken - H(center)))

    def step(carry, given):
        x, _ = carry
        s, key = given
        on_image, on_data, again = jax.random.split(key, 3)
        mean = denoise(field, x, s, KNOBS[knob](s, lookahead))
        nu2 = (1 - s) ** 2 / (s**2 + (1 - s) ** 2)
        drawn = mean + spread * jnp.sqrt(nu2) * jax.random.normal(on_image, mean.shape)
        shaken = y + spread * jnp.sqrt(variance) * jax.random.normal(on_data, y.shape)
        image = refine(drawn, nu2, shaken)
        u = s + 1 / steps
        return u * image + (1 - u) * jax.random.normal(again, x.shape), image

    start = jax.random.normal(start_key, H.image_shape)
    inputs = (jnp.arange(steps) / steps, jax.random.split(step_key, steps))
    (_, image), info = run_scan(
        step, (start, start), inputs, observation, evaluations=steps, keep=keep, view=lambda carry: carry[1]
    )
    return image, info
