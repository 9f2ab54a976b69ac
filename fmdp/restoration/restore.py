"""Restoring one picture of any size, degraded already or by us, at several lookaheads, with several samples."""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from skimage.restoration import estimate_sigma

from fmdp import operators
from fmdp.data.decoding import MAX_PIXELS
from fmdp.errors import InputError
from fmdp.flow.average_field import denoise, lookahead_time
from fmdp.flow.interpolant import time_of_sigma
from fmdp.flow.tiling import Shape, canvas_shape, corners, crop, pad, tiled
from fmdp.metrics.distortion import psnr
from fmdp.operators import Operator
from fmdp.operators.jpeg import YCBCR
from fmdp.operators.noise import GaussianNoise, Observation, observe
from fmdp.parallel.batching import replicate_local
from fmdp.restoration.cropped_operator import on_canvas
from fmdp.restoration.request import Request
from fmdp.solvers import DivergenceError, pnp, raise_if_diverged
from fmdp.types import AverageField, PRNGKey, SizedField

DEFAULT_SIGMA = 0.05  # of the noise that we add, unless told
MIN_SIGMA = 1 / 255  # what eight bits leave of no noise
DOWNSCALING_OPERATORS = ("super_resolution", "decimation")  # by `factor` along each axis
CLIPPED_SHARE = 0.05  # of the pixels at black or white, from where on it is told
MAX_ABS_VALUE = 10.0  # of a picture in [-1, 1] with its noise; 0 to 255 is not meant
MASKING_OPERATORS = ("box_inpainting", "random_inpainting", "brush_inpainting")
DENOISING = Request()
SAMPLES_AT_ONCE = 8  # samples of one tile


class Restored(NamedTuple):
    """What became of one picture, in [-1, 1].

    Attributes:
      images: [lookaheads, samples, H, W, C].
      measured: what was restored, y.
      clean: [H, W, C] where it is known.
      facts: what was found out or decided on the way, as plain JSON.
    """

    images: np.ndarray
    measured: np.ndarray
    clean: np.ndarray | None
    facts: dict[str, Any]


def restore(prior: SizedField, picture: ArrayLike, request: Request = DENOISING) -> Restored:
    """One picture of any size restored by a prior, in overlapping tiles where it is larger than the images of that.

    A gray prior takes the luma of a picture in colour; a prior in colour takes a gray picture three times over. A
    picture whose sides the operator's factor does not divide loses its last rows or columns.

    >>> import fmdp, jax
    >>> prior = fmdp.load("fashion_mnist")
    >>> picture = jax.random.uniform(jax.random.key(0), (28, 40, 1), minval=-1)
    >>> request = fmdp.Request(operator="box_inpainting", parameters={"size": 9}, lookaheads=(0.0, 1.0), steps=2)
    >>> restored = fmdp.restore(prior, picture, request)
    >>> restored.images.shape, restored.facts["tiles"]  # (lookaheads, samples, height, width, channels)
    ((2, 1, 28, 40, 1), 2)

    Args:
      prior: what `fmdp.load` gives, or another pytree that is a field and knows its `image_shape`.
      picture: [h, w, 1 or 3] or, in gray, [h, w], of floating-point numbers in [-1, 1]; `restore_files.read` gives one.
        For a degraded picture with an operator of your own, what that measures.
      request: what to do; denoising unless it says otherwise.

    Raises:
      InputError: a request that cannot be met for this picture, or a solve that diverges.
    """
    request.check()
    notes: list[str] = []
    tile = prior.image_shape
    keys = jax.random.split(jax.random.key(request.seed), 3)
    averaged = np.shape(picture)[2:] == (3,) and tile[2] == 1
    operator, picture = _to_be_restored(picture, request, tile, keys[0], notes)
    shape, clean = operator.image_shape, None if request.degraded else picture
    sigma, denoising = request.sigma or DEFAULT_SIGMA, request.operator == "denoising"
    estimated = denoising and request.degraded and request.sigma is None
    if request.degraded:
        measured = jnp.asarray(picture)
        if request.operator in MASKING_OPERATORS:
            measured = operator(measured)  # what is hidden was not measured, whatever stands there
        if estimated:
            sigma = estimate_noise(picture, notes)
        elif averaged:
            sigma *= float(np.linalg.norm(YCBCR[0]))  # the noise of the channels is averaged, too
    else:
        measured = observe(operator, GaussianNoise(sigma=sigma), jnp.asarray(picture), keys[1]).y
    canvas = canvas_shape(shape, tile)
    if canvas != tile:
        prior = replicate_local(prior)
    lookaheads = jnp.asarray(request.lookaheads, jnp.float32)
    facts: dict[str, Any] = {"sigma": sigma} if denoising or not request.degraded else {}
    facts["sigma_estimated"] = estimated
    if canvas[:2] != shape[:2]:
        notes.append(f"padded from {shape[0]}x{shape[1]} to {canvas[0]}x{canvas[1]}, and cropped again")
    if not denoising and request.degraded and request.sigma is not None:
        notes.append(f"--sigma={request.sigma:g} changes nothing: plug-and-play weighs the data by --gain")
    if denoising:
        s = float(time_of_sigma(sigma))
        images = _denoise(prior, pad(s * measured, canvas), jnp.float32(s), lookaheads, canvas, tile)[:, None]
        facts |= {"s": s, "evaluations": 1}
    else:
        observed = Observation(y=measured, operator=on_canvas(operator, canvas), noise=GaussianNoise(sigma=sigma))
        observed.check_shape()
        draws = jax.random.split(keys[2], request.num_samples)
        images, info = _solve(prior, observed, draws, lookaheads, request.gain, request.steps, canvas, tile)
        try:
            raise_if_diverged(info, "this picture", "pnp")
        except DivergenceError as diverged:
            raise InputError(f"{diverged}: lower --gain") from diverged
        facts |= {"evaluations": request.steps, "data_residual": np.asarray(info.residual[..., -1]).tolist()}
    facts |= {"tiles": len(corners(canvas, tile)), "tile": list(tile), "notes": notes}
    images = np.asarray(crop(images, shape))
    if clean is not None:
        facts["psnr"] = psnr(jnp.clip(images.mean(1), -1, 1), jnp.asarray(clean)).tolist()
        if request.num_samples > 1:
            facts["psnr_of_samples"] = psnr(jnp.clip(images, -1, 1), jnp.asarray(clean)).tolist()
    return Restored(images, np.asarray(measured), clean, facts)


def estimate_noise(picture: np.ndarray, notes: list[str] | None = None) -> float:
    """The standard deviation of the noise in a picture [h, w, C], from its wavelet coefficients, at least LEAST_SIGMA.

    Donoho's estimator: the median of the finest diagonal coefficients. It takes fine texture for noise, and finds too
    little where noise was cut off at black and white, which is added to `notes`.

    Raises:
      InputError: an array of another form.
    """
    if picture.ndim != 3:
        raise InputError(f"--sigma: noise is estimated of pictures only, not of shape {picture.shape}: say what it is")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pictures too small for an estimate, for which it gives NaN
        found = [float(estimate_sigma(channel)) for channel in np.moveaxis(picture, -1, 0)]
    cut = float(np.mean(np.abs(picture) >= 1))
    if notes is not None and cut > CLIPPED_SHARE:
        notes.append(f"{cut:.0%} of it is black or white, where noise is cut off: if the estimate is low, say --sigma")
    return max(float(np.nan_to_num(np.mean(found))), MIN_SIGMA)


def _to_be_restored(
    picture: ArrayLike, request: Request, tile: Shape, key: PRNGKey, notes: list[str]
) -> tuple[Operator, np.ndarray]:
    """The operator, and the picture as it enters: the measurement where it is degraded, else the clean image."""
    picture = np.asarray(picture)
    if not np.issubdtype(picture.dtype, np.floating) or not np.isfinite(picture).all():
        raise InputError(f"a picture of {picture.dtype}: give finite floating-point numbers in [-1, 1] (x / 127.5 - 1)")
    picture = picture.astype(np.float32)
    measured = request.degraded and isinstance(request.operator, Operator)  # of any scale
    if picture.size and not measured and np.abs(picture).max() > MAX_ABS_VALUE:
        raise InputError(f"a picture of values up to {np.abs(picture).max():.3g}: give [-1, 1] (x / 127.5 - 1)")
    if picture.ndim == 2 and not measured:
        picture = picture[..., None]
    if isinstance(request.operator, Operator):
        if request.operator.image_shape[2] != tile[2]:
            wanted = request.operator.image_shape
            raise InputError(f"{request.name} takes images of shape {wanted}, but the prior's have {tile[2]} channels")
        return request.operator, picture
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3) or not picture.size:
        raise InputError(f"a picture of shape {picture.shape}: give [height, width, 1 or 3]")
    picture = _channels(picture, tile[2], request, notes)
    height, width = picture.shape[:2]
    factor = request.parameters.get("factor") if request.operator in DOWNSCALING_OPERATORS else 1
    factor = factor if isinstance(factor, int) and factor > 0 else 1  # of others the operator will say what is wrong
    if request.degraded:
        shape = (height * factor, width * factor, tile[2])
        if shape[0] * shape[1] > MAX_PIXELS:
            raise InputError(
                f"--operator_arg=factor={factor}: makes {shape[0]}x{shape[1]}, more than {MAX_PIXELS:,} pixels"
            )
    else:
        shape = (height - height % factor, width - width % factor, tile[2])
        if shape[:2] != (height, width):
            notes.append(f"cropped from {height}x{width} to {shape[0]}x{shape[1]}, which {factor} divides")
        picture = picture[: shape[0], : shape[1]]
    return operators.make(request.operator, shape, key, **request.parameters), picture


def _channels(picture: np.ndarray, wanted: int, request: Request, notes: list[str]) -> np.ndarray:
    have = picture.shape[-1]
    if request.degraded and request.operator == "colorization":
        return picture.mean(-1, keepdims=True)
    if have == wanted:
        return picture
    if wanted == 1:
        notes.append("converted to gray: this prior knows no colour")
        return picture @ YCBCR[0].astype(picture.dtype)[:, None]
    notes.append("gray, restored in colour")
    return np.repeat(picture[..., :1], wanted, -1)


@partial(jax.jit, static_argnames=("canvas", "tile"))
def _denoise(field: AverageField, x: Array, s: Array, lookaheads: Array, canvas: Shape, tile: Shape) -> Array:
    whole = tiled(field, canvas, tile)
    return jax.lax.map(lambda r: denoise(whole, x, s, lookahead_time(s, r)), lookaheads)


@partial(jax.jit, static_argnames=("steps", "canvas", "tile"))
def _solve(
    field: AverageField,
    observed: Observation,
    draws: Array,
    lookaheads: Array,
    gain: Array,
    steps: int,
    canvas: Shape,
    tile: Shape,
):
    whole = tiled(field, canvas, tile)

    def one(lookahead, key):
        return pnp.solve(
            whole, observed, key, steps=steps, lookahead=lookahead, knob="relative", gain=gain, schedule="safe"
        )

    at_once = SAMPLES_AT_ONCE if canvas == tile else 1  # several tiles are shared out already
    return jax.lax.map(lambda r: jax.lax.map(lambda key: one(r, key), draws, batch_size=at_once), lookaheads)
