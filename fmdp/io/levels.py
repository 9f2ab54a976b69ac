"""What numbers mean as pixels: which of them are black and white, and which axis holds the channels."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fmdp.errors import InputError, kind_fault, plain, translating

Range = tuple[float | int, float | int]
"""The values of black and white."""

UNIT: Range = (-1, 1)
BYTES: Range = (0, 255)
BITS = (8, 10, 12, 14, 16)  # that cameras, detectors and files have
MAX_ABS_VALUE = 10.0  # of an image in [-1, 1] with its noise; larger values are on another scale
FEW, DEEP = 0.1, -0.5  # the share and the depth of values below 0 that the noise of an image from 0 to 1 may have
Pixels = TypeVar("Pixels", np.ndarray, jax.Array)
COARSE = np.float32(257 / 2**15)  # 1 / 127.5 in 9 bits
FINE = np.float32(1 / 127.5 - 257 / 2**15)
SMALLEST_RANGE = 1e-30  # from black to white, which float32 can divide by
REMEDY = "state the values of black and white"


class Taken(NamedTuple):
    """The range that was taken, and one line that says so, "" where it cannot be mistaken."""

    range: Range
    said: str = ""


def range_fault(value: Any) -> str:
    """What a range should be instead; "" if it is two finite numbers, black and then a greater one, white."""
    fault = "must be two numbers, the value of black and the greater value of white, such as (0, 255)"
    if not isinstance(value, list | tuple) or len(value) != 2 or any(kind_fault(x, float) for x in value):
        return fault
    return "" if float(value[1]) - float(value[0]) > SMALLEST_RANGE else fault


def find_range(values: np.ndarray, stated: Range | None, limit: float = MAX_ABS_VALUE, in_file: bool = False) -> Taken:
    """The values of black and white of finite numbers: those stated, or else those that the numbers tell.

    Bytes go from 0 to 255, and truth values from 0 to 1. White of wider integers is the largest number of 8, 10, 12, 14
    or 16 bits that all of them fit into; `said` tells which. Floating-point numbers below and above 0 are in [-1, 1].

    Args:
      limit: the largest magnitude of floating-point numbers in [-1, 1], noise included.
      in_file: they are the pixels of one picture file, by custom from 0 to 1 where nothing is below or above.

    Raises:
      InputError: the range is not stated, and could be mistaken. The message names no setting.
    """
    if stated:
        return Taken((plain(stated[0]), plain(stated[1])))
    low, high = float(values.min()), float(values.max())
    found = f"values from {low:.6g} to {high:.6g}"
    kind = values.dtype.newbyteorder("=")
    if kind.kind == "b":
        return Taken((0, 1))
    if np.issubdtype(kind, np.integer):
        if low < 0 or high > 0xFFFF:
            raise InputError(f"integers from {low:.0f} to {high:.0f} are not of 8 to 16 bits: {REMEDY}")
        if high == 1:
            raise InputError(f"integers of 0 and 1 alone are nearly black as bytes: {REMEDY}, such as (0, 1)")
        if kind == np.uint8:
            return Taken(BYTES)
        white = next(2**bits - 1 for bits in BITS if high < 2**bits) if high else 0xFFFF
        white = min(white, int(np.iinfo(kind).max))
        full = kind == np.uint16 and white == 0xFFFF
        return Taken((0, white), "" if full else f"{found} of {kind}: white is taken as {white}")
    if in_file and low >= 0 and high <= 1:
        return Taken((0, 1), f"{found}: black is taken as 0 and white as 1")
    if 0 <= low < high or high > limit or low < -limit:
        why = "use only the upper half of [-1, 1]" if low >= 0 and high <= 1 else "are not floats from -1 to 1"
        white = 1 if high <= 1 else 255 if high <= 255 else high
        other = ", or (-1, 1) where that is right" if high <= 1 else ""
        raise InputError(f"{found} {why}: {REMEDY}, such as (0, {white:g}){other}")
    if low > DEEP and high > -low and np.mean(values < 0) < FEW:
        if in_file:
            raise InputError(f"{found}, few below 0, may begin at 0 or at -1: {REMEDY}, such as (0, 1)")
        return Taken(UNIT, f"{found}, few below 0: black is taken as -1 and white as 1; {REMEDY} if that is wrong")
    return Taken(UNIT, f"{found}: black is taken as -1 and white as 1" if in_file else "")


def as_numpy(values: Any) -> np.ndarray:
    """Numbers as an array of a type that numpy itself has; bfloat16 becomes float32.

    Raises:
      InputError: nested lists of different lengths, or masked values.
    """
    with translating("these lists are not an array ({}): give rows of one length".format, ValueError):
        array = without_mask(values)
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(np.float32) if is_float and array.dtype.kind != "f" else array


def without_mask(values: Any) -> np.ndarray:
    """Values as a plain array of numpy. Raises InputError if some are masked: what lies below a mask is no value."""
    if np.ma.is_masked(values):
        found = f"{np.ma.count_masked(values):,} of {values.size:,} values are masked"
        raise InputError(f"{found}: fill them, such as with x.filled(x.mean())")
    return np.asarray(values)


def to_unit(values: np.ndarray, taken: Range) -> np.ndarray:
    """Numbers as float32, with black at -1 and white at 1."""
    black, white = (plain(level) for level in taken)
    if (black, white) == UNIT:
        return values.astype(np.float32, copy=False)
    if values.dtype == np.uint8 and (black, white) == BYTES:
        return to_float(values)
    exact = values.dtype.itemsize <= 2 or values.dtype == np.float32  # in float32
    pixels: Any = values.astype(np.float32 if exact else np.float64)
    return ((pixels - black) * (2 / (white - black)) - 1).astype(np.float32)


def to_bytes(values: np.ndarray, taken: Range) -> np.ndarray:
    """Numbers as uint8, with black at 0 and white at 255; what is darker or brighter is cut off."""
    return _round(to_unit(values, taken))


def to_float(images: Pixels) -> Pixels:
    """Images as float32, on the host or on a device: uint8 from 0 to 255 in [-1, 1], floats as they are.

    Bytes give pixels / 127.5 - 1 with the same bits everywhere. A GPU may round a division differently, so the quotient
    is the sum of two products, of which the first is exact.
    """
    if images.dtype != np.uint8:
        return images
    pixels = images.astype(np.float32)
    return pixels * COARSE + pixels * FINE - 1


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C] in [-1, 1] as bytes [..., H, W, 3], or [..., H, W] if they have one channel."""
    pixels = _round(images)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _round(unit: np.ndarray) -> np.ndarray:
    return np.clip(np.round((unit + 1) * 127.5), 0, 255).astype(np.uint8)


def require_numbers(values: np.ndarray) -> None:
    """Raises InputError for an array without or of other than real, finite numbers. The message begins with "it"."""
    if values.dtype.kind not in "biuf":
        raise InputError(f"it holds {values.dtype}: give real numbers")
    if not values.size:
        raise InputError(f"it is empty, of shape {values.shape}: give at least one pixel")
    finite = np.isfinite(values)
    if not finite.all():
        nans = int(np.isnan(values).sum())
        infinite = int(finite.size - finite.sum()) - nans
        kinds = [f"{count:,} {name}" for count, name in ((nans, "NaN"), (infinite, "infinite values")) if count]
        place = [int(i) for i in np.argwhere(~finite)[0]]
        found = f"it holds {' and '.join(kinds)} among {values.size:,} values, the first at {place}"
        raise InputError(f"{found}: leave them out, or replace them (np.nan_to_num)")


def layout_remedy(shape: Sequence[int]) -> str:
    """What to do with images that are to be [..., H, W, 1 or 3], and are not; "" where nothing is known."""
    axis = len(shape) - 3
    if axis >= 0 and shape[axis] in (1, 3) and min(shape[axis + 1 :]) > 4:
        return f"the channels come first: move them last with np.moveaxis(x, {axis}, -1)"
    if axis >= 0 and shape[-1] in (2, 4):
        return f"leave out the transparency with x[..., :{shape[-1] - 1}]"
    return ""
