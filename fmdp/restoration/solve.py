"""Restoring a prepared image: one evaluation of the field for denoising, plug-and-play for everything else."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.flow.average_field import denoise, lookahead_time
from fmdp.flow.interpolant import time_of_sigma
from fmdp.flow.tiling import TILES_AT_ONCE, Shape, crop, pad, tiled
from fmdp.operators.noise import GaussianNoise, Observation
from fmdp.parallel.batching import replicate_local
from fmdp.restoration.cropped_operator import on_canvas
from fmdp.restoration.prepare import DEFAULT_SIGMA, Prepared
from fmdp.restoration.request import Request
from fmdp.restoration.tiles import Tiles, denoise_in_tiles
from fmdp.solvers import DivergenceError, pnp, raise_if_diverged
from fmdp.types import AverageField, SizedField

SAMPLES_AT_ONCE = 8  # samples of one tile


class Solution(NamedTuple):
    """What a method makes of one image.

    Attributes:
      images: [lookaheads, samples, H, W, C], on the host or a device.
      evaluations: of the field, for each lookahead and sample.
      residual: [lookaheads, samples], the root mean square of y - H(x) at the end; None where nothing was iterated.
    """

    images: Array | np.ndarray
    evaluations: int
    residual: Array | None = None


def solve(prior: SizedField, prepared: Prepared, request: Request, tiles: Tiles) -> Solution:
    """The restorations of a prepared image at all lookaheads of the request.

    Raises:
      ParameterError: plug-and-play diverges at this gain.
    """
    if prepared.canvas != prior.image_shape or tiles.margin is not None:
        prior = replicate_local(prior)
    method = _denoise_image if request.denoises else _plug_and_play
    if request.denoises and tiles.margin is not None:
        method = _denoise_on_host
    solution = method(prior, prepared, request, tiles)
    return solution._replace(images=crop(solution.images, prepared.operator.image_shape))


def _denoise_image(prior: SizedField, prepared: Prepared, request: Request, tiles: Tiles) -> Solution:
    s = float(time_of_sigma(prepared.sigma))
    noisy = pad(s * prepared.measured, prepared.canvas)
    lookaheads = _as_float32(request.lookaheads)
    sizes = {"canvas": prepared.canvas, "tile": tiles.shape, "at_once": tiles.at_once}
    images = _denoise_at(prior, noisy, _as_float32(s), lookaheads, **sizes)
    return Solution(images[:, None], evaluations=1)


def _denoise_on_host(prior: SizedField, prepared: Prepared, request: Request, tiles: Tiles) -> Solution:
    """In numpy but for the batches of tiles, so that no program depends on the size of the picture."""
    s = np.float32(time_of_sigma(prepared.sigma))
    noisy = pad(s * np.asarray(prepared.measured), prepared.canvas)
    times = s + np.asarray(request.lookaheads, np.float32) * (1 - s)
    images = denoise_in_tiles(prior, np.broadcast_to(noisy, (len(times), *noisy.shape)), s, times, tiles)
    return Solution(images[:, None], evaluations=1)


def _plug_and_play(prior: SizedField, prepared: Prepared, request: Request, tiles: Tiles) -> Solution:
    operator = on_canvas(prepared.operator, prepared.canvas)
    noise = GaussianNoise(sigma=prepared.sigma or DEFAULT_SIGMA)  # cancels in the data step
    observed = Observation(y=prepared.measured, operator=operator, noise=noise)
    keys = jax.random.split(prepared.solver_key, request.num_samples)
    lookaheads, gain = _as_float32(request.lookaheads), _as_float32(request.gain)
    sizes = {"steps": request.steps, "canvas": prepared.canvas, "tile": tiles.shape}
    sizes |= {"margin": tiles.margin, "at_once": tiles.at_once}
    images, info = _plug_and_play_at(prior, observed, keys, lookaheads, gain, **sizes)
    try:
        raise_if_diverged(info, "this image", "pnp")
    except DivergenceError as diverged:
        raise request.error("gain", str(diverged)) from diverged
    return Solution(images, request.steps, info.residual[..., -1])


def _as_float32(value: Any) -> Array:
    """An array: integers and floats then run the same compiled program."""
    return jnp.asarray(value, jnp.float32)


@partial(jax.jit, static_argnames=("canvas", "tile", "at_once"))
def _denoise_at(
    field: AverageField,
    x: Array,
    s: Array,
    lookaheads: Array,
    canvas: Shape,
    tile: Shape,
    at_once: int = TILES_AT_ONCE,
) -> Array:
    whole = tiled(field, canvas, tile, at_once=at_once)
    return jax.lax.map(lambda r: denoise(whole, x, s, lookahead_time(s, r)), lookaheads)


@partial(jax.jit, static_argnames=("steps", "canvas", "tile", "margin", "at_once"))
def _plug_and_play_at(
    field: AverageField,
    observed: Observation,
    keys: Array,
    lookaheads: Array,
    gain: Array,
    steps: int,
    canvas: Shape,
    tile: Shape,
    margin: int | None = None,
    at_once: int = TILES_AT_ONCE,
):
    whole = tiled(field, canvas, tile, margin, at_once)

    def restore_sample(lookahead, key):
        return pnp.solve(
            whole, observed, key, steps=steps, lookahead=lookahead, knob="relative", gain=gain, schedule="safe"
        )

    together = min(SAMPLES_AT_ONCE, at_once) if canvas == tile else 1  # several tiles are shared out already
    return jax.lax.map(lambda r: jax.lax.map(lambda key: restore_sample(r, key), keys, batch_size=together), lookaheads)
