"""Plug-and-play with flow map denoisers (arXiv 2606.19802): descend on the data, add noise, denoise with a lookahead.

At times s = 0, 1/N, ..., (N - 1)/N, from x = 0:

    z = x - gain (1 - s)^exponent grad ||y - H(x)||^2,    x <- D_{s,t}(s z + (1 - s) eps).

At t = s this is PnP-Flow. Towards t = 1 the iterates keep the spread of the data, and converge only in distribution.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from fmdp.errors import InputError, Range
from fmdp.flow.average_field import chord, denoise, lookahead_time
from fmdp.operators.base import adjoint
from fmdp.operators.noise import GaussianNoise, Observation
from fmdp.solvers.base import Info, covariance_solver, operator_norm, require_linear, run_scan, solver
from fmdp.types import AverageField, Image, PRNGKey, Scalar

KNOBS = {
    "additive": lambda s, lookahead: jnp.minimum(s + lookahead, 1),
    "relative": lookahead_time,
    "fixed": lambda s, lookahead: jnp.maximum(s, lookahead),
}
"""The time t of the denoiser at time s, as a function of s and the lookahead."""


SCHEDULES = ("published", "safe")
"""What the gain multiplies: see `solve`."""

STATIC = ("steps", "knob", "schedule", "data_step", "noise_draws", "keep")


@solver(
    ranges={
        "steps": Range(1),
        "noise_draws": Range(1),
        "lookahead": Range(0, 1),
        "times": Range(0, 1),
        "gain": Range(0),
        "exponent": Range(0),
    },
    choices={
        "knob": (*KNOBS, "chord"),
        "schedule": SCHEDULES,
        "data_step": ("gradient", "proximal"),
    },
)
def solve(
    field: AverageField,
    observation: Observation,
    key: PRNGKey,
    *,
    steps: int = 100,
    lookahead: float | Scalar = 0.3,
    knob: str = "additive",
    exponent: float | Scalar = 0.05,
    gain: float | Scalar = 1.0,
    schedule: str = "published",
    data_step: str = "gradient",
    noise_draws: int = 1,
    times: Array | None = None,
    noise: Array | None = None,
    keep: bool = False,
) -> tuple[Image, Info]:
    """One image restored from x = 0. All options but those in STATIC can be traced by jit and vmap.

    Args:
      lookahead: in [0, 1]. How it is read depends on the knob: "additive" t = min(s + lookahead, 1) as published,
        "relative" t = s + lookahead (1 - s), "fixed" t = max(s, lookahead), or "chord", the straight line from D_{s,s}
        to D_{s,1} with two evaluations a step.
      exponent, gain: of the step size gain (1 - s)^exponent.
      schedule: "published" steps on ||y - H(x)||^2 (unstable above gain 1 / norm(H)^2); "safe" divides them by
        2 norm(H)^2, which it finds by power iteration, so that gain 1 never overshoots a linear H with Gaussian noise.
      data_step: "gradient", or "proximal", the minimiser of ||z - x||^2 / 2 + step ||y - H(z)||^2 (linear H, Gaussian
        noise), by conjugate gradients.
      noise_draws: renoisings per step, over which D is averaged; each takes one evaluation.
      times: [steps] in [0, 1], the times s; 0, 1/steps, ..., 1 - 1/steps by default.
      noise: [steps, H, W, C] or [steps, noise_draws, H, W, C], of all renoisings; drawn from the key by default.
      keep: whether info holds all iterates.

    Raises:
      InputError: options or shapes that do not fit.
    """
    shape = observation.operator.image_shape
    draw_key, norm_key = jax.random.split(key)
    draws = (steps, noise_draws, *shape)
    renoise = jax.random.split(draw_key, steps) if noise is None else _as_noise_draws(noise, draws)
    if schedule == "safe":
        gain = gain / (2 * _norm(observation, norm_key) ** 2)
    s = jnp.arange(steps) / steps if times is None else times
    if s.shape != (steps,):
        raise InputError(f"pnp: times has shape {s.shape}: pass one for each of the {steps} steps")
    move = _proximal(observation) if data_step == "proximal" else partial(_descend, observation)

    def step(x, given):
        s, size, renoise = given
        eps = jax.random.normal(renoise, (noise_draws, *shape)) if noise is None else renoise
        z = s * move(x, size) + (1 - s) * eps
        if knob == "chord":
            estimates = chord(field, z, s, lookahead)
        else:
            estimates = denoise(field, z, s, KNOBS[knob](s, lookahead))
        return estimates.mean(0)

    evaluations = steps * noise_draws * (2 if knob == "chord" else 1)
    inputs = (s, gain * (1 - s) ** exponent, renoise)
    return run_scan(step, jnp.zeros(shape), inputs, observation, evaluations=evaluations, keep=keep)


def _descend(observation: Observation, x: Image, size: Scalar) -> Image:
    return x - size * jax.grad(observation.energy)(x)


def _proximal(observation: Observation):
    """(x, size) -> argmin_z ||z - x||^2 / 2 + size ||w (y - H z)||^2, with the weights w of `Observation.whiten`.

    It is the Gaussian posterior's mean for a spread nu^2 = 2 size sigma^2 around x, of the smallest sigma.
    """
    require_linear(observation, "pnp with a proximal data step")
    if not isinstance(observation.noise, GaussianNoise):
        raise InputError("pnp: data_step='proximal' is for Gaussian noise: pass data_step='gradient'")

    H, solve_misfit = observation.operator, covariance_solver(observation)

    def move(x, size):
        nu2 = 2 * size * observation.least_variance
        return x + nu2 * adjoint(H, solve_misfit(nu2, observation.y - H(x)))

    return move


def _norm(observation: Observation, key: PRNGKey) -> Scalar:
    """The norm of the operator, or of its derivative at a random image."""
    at = None
    if not observation.operator.linear:
        key, point = jax.random.split(key)
        at = 0.5 * jax.random.normal(point, observation.operator.image_shape)
    return operator_norm(observation.operator, key, at)


def _as_noise_draws(noise: Array, shape: tuple[int, ...]) -> Array:
    steps, noise_draws, *image = shape
    if noise.shape != shape and (noise_draws > 1 or noise.shape != (steps, *image)):
        raise InputError(f"pnp: noise has shape {noise.shape}: pass (steps, noise_draws, H, W, C) = {shape}")
    return noise.reshape(shape)
