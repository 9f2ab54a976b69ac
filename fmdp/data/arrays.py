"""Arrays as users bring them, made images in [-1, 1]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from fmdp.data.containers import ArrayImages, Images, UInt8Images
from fmdp.errors import InputError, translating
from fmdp.io.levels import BYTES, REMEDY, Range, as_numpy, find_range, layout_remedy, to_float, to_unit
from fmdp.operators.color import luma


def scale_arrays(arrays: Sequence[np.ndarray], taken: Range, channels: int) -> list[Images]:
    """Arrays [n, H, W, 1 or 3] of finite numbers as images, in bytes where they have them.

    Args:
      taken: the values of black and white, between which all numbers lie.
      channels: 1 takes the luma of colour, by the arithmetic that Pillow has for pictures.

    Raises:
      InputError: a number is out of range.
    """
    scaled: list[Images] = []
    for values in arrays:
        _require_within(values, taken)
        pixels = _pixels(values, taken, channels)
        scaled.append(UInt8Images(pixels) if pixels.dtype == np.uint8 else ArrayImages(pixels))
    return scaled


def _require_within(values: np.ndarray, taken: Range) -> None:
    """Raises InputError for numbers outside a range; those that are not finite pass."""
    slack = 1e-6 * (taken[1] - taken[0])
    finite = np.isfinite(values)
    held = values if finite.all() else values[finite]
    low, high = (float(held.min()), float(held.max())) if held.size else taken
    if low < taken[0] - slack or high > taken[1] + slack:
        raise InputError(f"values from {low:.6g} to {high:.6g} are not in {list(taken)}: {REMEDY}")


def _pixels(values: np.ndarray, taken: Range, channels: int) -> np.ndarray:
    """Numbers as bytes where they are bytes from 0 to 255, otherwise as float32 in [-1, 1]."""
    gray = channels == 1 and values.shape[-1] == 3
    if values.dtype == np.uint8 and taken == BYTES:
        return luma_of_bytes(values) if gray else values
    pixels = to_unit(values, taken)
    return luma(pixels) if gray else pixels


def _with_channels(images: Any) -> np.ndarray:
    """An array, with one channel where it has the shape [n, H, W]."""
    values = as_numpy(images)
    return values[..., None] if values.ndim == 3 else values


def luma_of_bytes(pixels: np.ndarray) -> np.ndarray:
    """The luma [..., 1] of bytes [..., 3], to the last bit that of `PIL.Image.convert("L")`."""
    weighted = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]


def as_training_images(
    images: Any, held_out: Any, stated: Range | None, channels: int = 3, bounded: bool = True
) -> tuple[Images, np.ndarray | None]:
    """Training images, and images to watch a run on, which are on the scale of the training images.

    A plain array is what a user brings, [n, H, W] or [n, H, W, C]: its range is stated, or told by its numbers
    (`levels.find_range`), and `channels` is as for `scale_arrays`. All else, which `fmdp.data` makes, is in [-1, 1]
    already. Training itself counts the updates that numbers which are not finite spoil. `bounded` says whether numbers
    outside a stated range are refused.

    Raises:
      InputError: a plain array has its channels first, or its range could be mistaken.
    """
    if not isinstance(images, list | tuple) and not hasattr(images, "__array__"):
        return images, held_out if held_out is None else to_float(held_out)
    values, others = _with_channels(images), None if held_out is None else _with_channels(held_out)
    has_pixels = values.ndim == 4 and values.shape[1:3] != (1, 1)  # points of a space have none
    if has_pixels and values.shape[-1] not in (1, 3) and (remedy := layout_remedy(values.shape)):
        raise InputError(f"training images of shape {values.shape}: {remedy}")
    if values.dtype.kind not in "biuf" or values.ndim != 4:
        found = f"training images of {values.dtype} and shape {values.shape}"
        raise InputError(f"{found}: give numbers of shape [n, height, width, channels]")
    if others is not None and (others.dtype == np.uint8) != (values.dtype == np.uint8):
        raise InputError(
            f"training images of {values.dtype} and held-out ones of {others.dtype}: give both on one scale"
        )
    if others is not None and others.shape[1:] != values.shape[1:]:
        raise InputError(f"training images of shape {values.shape} and held-out ones of {others.shape}: give one size")
    if 0 in values.shape[1:]:
        raise InputError(f"training images of shape {values.shape} have no pixels: give at least one")
    if not values.size:
        return values, others  # refused, for having no images, where batches are made
    setting = f"config.data.range = {tuple(stated or ())}"
    with translating(lambda why: f"training images: {why} ({setting})", InputError):
        finite = values if stated else values[np.isfinite(values)]  # a copy, which a stated range does not need
        taken = find_range(finite if finite.size else np.zeros(1), stated)
        if stated and bounded:
            _require_within(values, taken.range)
    if taken.said:
        logging.warning("training images: %s (%s)", taken.said, setting)
    pixels = _pixels(values, taken.range, channels)
    watched = None if others is None else to_float(_pixels(others, taken.range, channels))
    return UInt8Images(pixels) if pixels.dtype == np.uint8 else pixels, watched
