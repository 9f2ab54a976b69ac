"""Arrays as users bring them, made images in [-1, 1]."""

from collections.abc import Sequence

import numpy as np
from absl import logging

from fmdp.data.containers import FloatImages, Images, UInt8Images, to_float
from fmdp.errors import InputError, translating
from fmdp.io.levels import BYTES, REMEDY, Range, find_range, layout_remedy, to_unit
from fmdp.operators.color import luma


def scale_arrays(arrays: Sequence[np.ndarray], taken: Range, channels: int) -> list[Images]:
    """Arrays [n, H, W, 1 or 3] of finite numbers as images, in bytes where they have them.

    Args:
      taken: the values of black and white, between which all numbers lie.
      channels: 1 takes the luma of colour, by the arithmetic that Pillow has for pictures.

    Raises:
      InputError: a number is out of range.
    """
    slack = 1e-6 * (taken[1] - taken[0])
    scaled: list[Images] = []
    for values in arrays:
        low, high = float(values.min()), float(values.max())
        if low < taken[0] - slack or high > taken[1] + slack:
            raise InputError(f"values from {low:.6g} to {high:.6g} are not in {list(taken)}: {REMEDY}")
        gray = channels == 1 and values.shape[-1] == 3
        if values.dtype == np.uint8 and taken == BYTES:
            scaled.append(UInt8Images(luma_of_bytes(values) if gray else values))
        else:
            pixels = to_unit(values, taken)
            scaled.append(FloatImages(luma(pixels) if gray else pixels))
    return scaled


def luma_of_bytes(pixels: np.ndarray) -> np.ndarray:
    """The luma [..., 1] of bytes [..., 3], to the last bit that of `PIL.Image.convert("L")`."""
    weighted = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]


def as_training_images(
    images: Images, held_out: np.ndarray | None, stated: Range | None
) -> tuple[Images, np.ndarray | None]:
    """Training images, and images to watch a run on, which are on the scale of the training images.

    A plain array is what a user brings: its range is stated, or told by its numbers (`levels.find_range`). All else,
    which `fmdp.data` makes, is in [-1, 1] already. Training itself counts the images that are not finite.

    Raises:
      InputError: a plain array has its channels first, or its range could be mistaken.
    """
    if not isinstance(images, np.ndarray):
        return images, held_out if held_out is None else to_float(held_out)
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and (remedy := layout_remedy(images.shape)):
        raise InputError(f"training images of shape {images.shape}: {remedy}")
    if images.dtype.kind not in "biuf" or not images.size:
        raise InputError(f"training images of {images.dtype} and shape {images.shape}: give real numbers")
    setting = f"config.data.range = {tuple(stated or ())}"
    with translating(lambda why: f"training images: {why} ({setting})", InputError):
        taken = find_range(images, stated, limit=np.inf)
    if taken.said:
        logging.warning("training images: %s (%s)", taken.said, setting)
    in_bytes = images.dtype == np.uint8 and taken.range == BYTES
    images = UInt8Images(images) if in_bytes else to_unit(images, taken.range)
    return images, None if held_out is None else to_unit(held_out, taken.range)
