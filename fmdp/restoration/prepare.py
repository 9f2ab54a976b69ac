"""One image made ready to be restored: its channels, its operator, its measurement and the noise in it."""

import dataclasses
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp import operators
from fmdp.errors import InputError, translating
from fmdp.flow.tiling import Shape
from fmdp.io.archives import MAX_PIXELS
from fmdp.io.levels import (
    MAX_ABS_VALUE,
    REMEDY,
    UNIT,
    Range,
    as_numpy,
    find_range,
    layout_remedy,
    require_numbers,
    to_unit,
)
from fmdp.operators import Operator
from fmdp.operators.blur import SUM_TOLERANCE, Blur
from fmdp.operators.color import REC_601, luma
from fmdp.operators.inpainting import Inpainting
from fmdp.operators.noise import GaussianNoise, observe
from fmdp.restoration.request import GRAY_LEVELS, Request
from fmdp.restoration.tiles import Tiles
from fmdp.types import PRNGKey

DEFAULT_SIGMA = 0.05  # of the noise that is added
MIN_SIGMA = 1 / 255  # below it, 8 bits cannot hold the noise
CLIPPED_SHARE = 0.05  # of the pixels at black or white, above which an estimate of the noise may be too low
FAR = 3.0  # by this factor a stated noise level may differ from an estimate
ESTIMATED_SIDE = 16  # pixels; estimates from fewer say little
DOWNSCALING_OPERATORS = ("super_resolution", "decimation")  # by `factor` along each axis


class Note(NamedTuple):
    """Something to know about a restoration, and the parameter of the request that it concerns, "" where none does."""

    text: str
    parameter: str = ""


class Picture(NamedTuple):
    """A picture that was read from a file (`picture_files.read_picture`), and what its numbers were taken for.

    Attributes:
      pixels: [H, W, 1 or 3], float32, black at -1 and white at 1.
      range: the numbers of the file that were taken as black and white.
      notes: what was assumed.
      profile: of sRGB, where the file has a colour profile that can be used.
    """

    pixels: np.ndarray
    range: Range
    notes: tuple[Note, ...] = ()
    profile: bytes | None = None

    def __repr__(self) -> str:
        """The shape, the range and the notes, without arrays and bytes."""
        return (
            f"Picture(pixels=array{self.pixels.shape}, range={self.range}, notes={[note.text for note in self.notes]})"
        )


class Prepared(NamedTuple):
    """An image ready to be restored.

    Attributes:
      operator: what measured it; its `image_shape` is that of the restoration.
      canvas: (H, W, C) of the tiles that cover the restoration.
      measured: y.
      clean: [H, W, C], the image before it was measured, where it is known.
      sigma: standard deviation of the noise in y; `DEFAULT_SIGMA` where plug-and-play, which does not ask for it,
        restores a degraded image.
      sigma_estimated: whether `sigma` was estimated from the image.
      solver_key: for the noise of the solver.
      notes: what was changed or noticed.
    """

    operator: Operator
    canvas: Shape
    measured: Array
    clean: np.ndarray | None
    sigma: float
    sigma_estimated: bool
    solver_key: PRNGKey
    notes: tuple[Note, ...]


def prepare(image: ArrayLike, request: Request, tiles: Tiles) -> Prepared:
    """An image made ready to be restored in these tiles.

    Raises:
      InputError: an array that is not an image, or whose range could be mistaken, or a request that this image cannot
        meet.
    """
    operator_key, noise_key, solver_key = jax.random.split(jax.random.key(request.seed), 3)
    notes: list[Note] = []
    tile = tiles.shape
    given = _as_float_image(image, request, notes)
    operator, fitted = _fit_to_operator(given, request, tile, operator_key, notes)
    estimated = False
    if not request.degraded:
        sigma = DEFAULT_SIGMA if request.sigma is None else float(request.sigma)
        measured = observe(operator, GaussianNoise(sigma=sigma), jnp.asarray(fitted), noise_key).y
    else:
        measured = jax.device_put(fitted)  # unlike jnp.asarray, it compiles nothing for a new size
        if isinstance(operator, Inpainting):
            measured = operator(measured)  # hidden pixels were not measured, whatever their values are
        sigma, estimated = _noise_level(fitted, request, given.shape[2:] == (3,) and tile[2] == 1, notes)
    shape = operator.image_shape
    canvas = tiles.canvas(shape)
    if canvas[:2] != shape[:2]:
        notes.append(Note(f"padded from {shape[0]}x{shape[1]} to {canvas[0]}x{canvas[1]}, and cropped again"))
    clean = None if request.degraded else fitted
    return Prepared(operator, canvas, measured, clean, sigma, estimated, solver_key, tuple(notes))


def estimate_noise(image: np.ndarray) -> float:
    """The standard deviation of the noise in an image [H, W, C], at least `MIN_SIGMA`, on the scale of the image.

    Donoho's estimator: the median of the absolute wavelet coefficients of the finest diagonal details. It mistakes fine
    texture for noise, and finds too little where noise was clipped at black and white.
    """
    from skimage.restoration import estimate_sigma  # takes half a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # images too small for an estimate give NaN
        found = [float(estimate_sigma(channel)) for channel in np.moveaxis(image, -1, 0)]
    return max(float(np.nan_to_num(np.mean(found))), MIN_SIGMA)


def noise_left(sigma: float, to_gray: bool) -> float:
    """The noise level of a picture whose channels may be averaged before it is restored, and their noise with them."""
    return sigma * (float(np.linalg.norm(REC_601)) if to_gray else 1.0)


def _noise_level(image: np.ndarray, request: Request, to_gray: bool, notes: list[Note]) -> tuple[float, bool]:
    """The noise in a degraded image, and whether it is estimated."""
    if not request.denoises:
        if request.sigma is not None:
            text = "the noise level has no effect: plug-and-play scales its data step by the gain instead"
            notes.append(Note(text, "sigma"))
        return DEFAULT_SIGMA, False
    if request.sigma is not None:
        stated = noise_left(float(request.sigma), to_gray)
        _compare_noise(image, stated, noise_left(1.0, to_gray), notes)
        return stated, False
    clipped = float(np.mean(np.abs(image) >= 1))
    if clipped > CLIPPED_SHARE:
        share = f"{clipped:.0%} of the pixels are black or white, where noise is clipped"
        notes.append(Note(f"{share}: if the estimate is too low, set the noise level yourself", "sigma"))
    return estimate_noise(image), True


def _compare_noise(image: np.ndarray, stated: float, left: float, notes: list[Note]) -> None:
    """Notes a stated noise level that is far from an estimate, with both as they were before the share `left` was."""
    if min(image.shape[:2]) < ESTIMATED_SIDE:
        return
    estimate = estimate_noise(image)
    ratio = max(stated, MIN_SIGMA) / estimate
    if not 1 / FAR <= ratio <= FAR:
        found, given = (f"{x / left:.3g} ({x / left * GRAY_LEVELS:.3g} of 255)" for x in (estimate, stated))
        text = f"the noise is stated as {given}, which is used, but it looks like {found}: see that the unit is right"
        notes.append(Note(text, "sigma"))


def request_with_range(images: np.ndarray, request: Request, notes: list[Note]) -> Request:
    """The request with the values of black and white of an image or of a batch, as it states them or they tell them.

    Raises:
      InputError: numbers that are not finite, or whose range could be mistaken.
    """
    with translating(lambda why: f"an image of {images.dtype}: {why}", InputError):
        require_numbers(images)
    try:
        taken = find_range(images, request.range)
    except InputError as error:
        raise request.error("range", str(error)) from error
    if taken.said:
        notes.append(Note(taken.said, "range"))
    return dataclasses.replace(request, range=taken.range)


def _as_float_image(image: ArrayLike, request: Request, notes: list[Note]) -> np.ndarray:
    """The image as float32 [H, W, C] in [-1, 1], or the measurement by the user's own operator as it is."""
    array = as_numpy(image)
    own = isinstance(request.operator, Operator)
    if array.ndim == 2 and not (own and request.degraded):
        array = array[..., None]
    if not own and (array.ndim != 3 or array.shape[-1] not in (1, 3) or not array.size):
        remedies = filter(None, ("give [height, width, 1 or 3]", layout_remedy(array.shape)))
        raise InputError(f"an image of shape {array.shape}: {'; '.join(remedies)}")
    if own and request.degraded:
        with translating(lambda why: f"an image of {array.dtype}: {why}", InputError):
            require_numbers(array)
        if request.range not in (None, UNIT):
            raise request.error("range", "a measurement by an operator of your own is taken as it is: leave it out")
        return array.astype(np.float32)
    taken = request_with_range(array, request, notes).range
    assert taken is not None
    pixels = to_unit(array, taken)
    if np.abs(pixels).max() > MAX_ABS_VALUE:
        found = f"values from {array.min():.6g} to {array.max():.6g}"
        raise request.error("range", f"{found} are far from black and white: {REMEDY}")
    return pixels


def _fit_to_operator(
    image: np.ndarray, request: Request, tile: Shape, key: PRNGKey, notes: list[Note]
) -> tuple[Operator, np.ndarray]:
    """The operator, and the image with the channels and the size that it takes or, where degraded, measures."""
    if isinstance(request.operator, Operator):
        if request.operator.image_shape[2] != tile[2]:
            wanted = request.operator.image_shape
            raise InputError(f"{request.name} takes images of shape {wanted}, but the prior's have {tile[2]} channels")
        _require_size(request.operator, image.shape, request.degraded)
        return request.operator, image
    image = _fit_channels(image, tile[2], request, notes)
    height, width = image.shape[:2]
    shape = _restored_shape(height, width, tile[2], request)
    if not request.degraded and shape[:2] != (height, width):
        factor = request.parameters["factor"]
        notes.append(Note(f"cropped from {height}x{width} to {shape[0]}x{shape[1]}, which {factor} divides"))
        image = image[: shape[0], : shape[1]]
    operator = operators.make(request.operator, shape, key, **request.parameters)
    if isinstance(operator, Inpainting) and (hidden := operator.hidden_share) in (0, 1):
        raise request.error("parameters", f"they hide {hidden:.0%} of {shape[0]}x{shape[1]} pixels: hide some of them")
    if isinstance(operator, Blur) and abs((total := float(operator.kernel.sum())) - 1) > SUM_TOLERANCE:
        text = f"the kernel sums to {total:.3g}, not to 1, which changes the brightness: normalize=True divides by it"
        notes.append(Note(text, "parameters"))
    return operator, image


def _require_size(own: Operator, shape: tuple[int, ...], degraded: bool) -> None:
    """Raises InputError where an operator of the user's own is for images of another size."""
    wanted = own.output_shape if degraded else own.image_shape
    if shape == wanted:
        return
    if degraded:
        fact = f"{own.name} of an image {own.image_shape} measures {wanted}, and this measurement has shape {shape}"
        raise InputError(f"{fact}: pass one of {wanted}, or make the operator for the size of the restored image")
    fact = f"{own.name} takes images of shape {wanted}, and this image has shape {shape}"
    raise InputError(f"{fact}: crop or resize it to {wanted}, or make the operator with image_shape={shape}")


def _fit_channels(image: np.ndarray, wanted: int, request: Request, notes: list[Note]) -> np.ndarray:
    """The image with the channels of the prior, or of what colorization measures."""
    if request.degraded and request.operator == "colorization":
        return image.mean(-1, keepdims=True)
    if image.shape[-1] == wanted:
        return image
    if wanted == 1:
        notes.append(Note("converted to gray, as this prior has no colour"))
        return luma(image)
    notes.append(Note("gray, restored in colour"))
    return np.repeat(image[..., :1], wanted, -1)


def _restored_shape(height: int, width: int, channels: int, request: Request) -> Shape:
    """The shape (H, W, C) of the restoration of an image by a named operator, which may change the resolution."""
    factor = max(request.parameters["factor"], 1) if request.operator in DOWNSCALING_OPERATORS else 1
    if not request.degraded:
        return (height - height % factor, width - width % factor, channels)
    shape = (height * factor, width * factor, channels)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise request.error("parameters", f"they make {shape[0]}x{shape[1]}, more than {MAX_PIXELS:,} pixels")
    return shape
