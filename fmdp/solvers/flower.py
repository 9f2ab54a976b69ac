"""Flower (arXiv 2509.26287): denoise, refine by a Gaussian posterior about the estimate, put back on the path.

With m = D_{s,t}(x) and the spread nu = (1 - s) / sqrt(s^2 + (1 - s)^2) about it, the refined image is drawn from (or
the mean of) the law of density exp(-||x - m||^2 / (2 nu^2) - ||y - H x||^2 / (2 sigma^2)).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from fmdp.flow.average_field import denoise
from fmdp.operators.base import adjoint
from fmdp.operators.noise import Observation
from fmdp.solvers.base import Info, require_between, require_choice, require_linear, require_steps, run_scan
from fmdp.solvers.pnp import KNOBS
from fmdp.types import AverageField, Image, PRNGKey, Scalar


def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 100,
    lookahead: float | Scalar = 0.0,
    knob: str = "additive",
    spread: float | Scalar = 1.0,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored from noise at time 0, for linear operators.

    Args:
      steps: each one evaluation.
      lookahead, knob: of the denoiser as in `pnp.restore`; 0, as published, is t = s.
      spread: of the draw, from 1 (as published) to 0, its mean.
      keep: whether info holds all iterates, here the refined images.

    Raises:
      InputError: an operator that is not linear, or options and shapes that do not fit.
    """
    observation.check()
    require_linear(observation, "flower")
    require_steps("flower", steps=steps)
    require_between("flower", 0, 1, lookahead=lookahead, spread=spread)
    require_choice("flower", "knob", knob, tuple(KNOBS))
    H, y, sigma2 = observation.operator, observation.y, observation.noise.variance
    back = partial(adjoint, H)
    start_key, step_key = jax.random.split(key)

    def step(carry, given):
        x, _ = carry
        s, key = given
        on_image, on_data, again = jax.random.split(key, 3)
        mean = denoise(field, x, s, KNOBS[knob](s, lookahead))
        nu2 = (1 - s) ** 2 / (s**2 + (1 - s) ** 2)
        shaken = y + spread * jnp.sqrt(sigma2) * jax.random.normal(on_data, y.shape)
        right = mean + spread * jnp.sqrt(nu2) * jax.random.normal(on_image, mean.shape) + nu2 / sigma2 * back(shaken)
        image = cg(lambda z: z + nu2 / sigma2 * back(H(z)), right, x0=mean, maxiter=50)[0]
        u = s + 1 / steps
        return u * image + (1 - u) * jax.random.normal(again, x.shape), image

    start = jax.random.normal(start_key, H.image_shape)
    inputs = (jnp.arange(steps) / steps, jax.random.split(step_key, steps))
    (_, image), info = run_scan(
        step, (start, start), inputs, observation, evaluations=steps, keep=keep, view=lambda carry: carry[1]
    )
    return image, info
