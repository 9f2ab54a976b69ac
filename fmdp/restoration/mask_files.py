"""Masks as files: white, or 1, where a pixel is observed, and black, or 0, where it is hidden."""

import contextlib
import os

import numpy as np

from fmdp.data.decoding import has_transparent_pixels, open_file
from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError
from fmdp.io.files import expand_path
from fmdp.io.levels import BITS, require_numbers
from fmdp.operators.inpainting import mask_fault
from fmdp.restoration.picture_files import NPY, first_plane, read_numbers, read_plane

WHITES = (1, *(2**bits - 1 for bits in BITS))  # of pictures of truth values, of bytes, and of more bits
SOFT = 32  # of 255: what lies farther from black and white than that is gray, and not an error of JPEG
MAX_GRAY_SHARE = 0.2  # of the pixels, for soft edges
REMEDY = "paint observed pixels white and hidden ones black"


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """A mask as bool [H, W], True where a pixel is observed.

    White of a picture is the smallest of `WHITES` that its largest number does not exceed: bytes of 0 and 1 count as
    black and white, and so do 16 bits of 0 and 4095. Soft edges are divided in the middle. An .npy file holds what
    `inpainting.mask_fault` accepts.

    Raises:
      UnusableError: it is not an image, or its pixels do not say which of them are observed: they are in colour or
        transparent, do not reach black and white, lie between them, or are all the same.
      OSError: it cannot be read.
    """
    path = expand_path(path)
    with open_file(path) as file:
        if file.read(len(NPY)) == NPY:
            return _check_array(read_plane(path))
        file.seek(0)
        numbers, _ = first_plane(read_numbers(path, file).values)
        transparent = False
        with contextlib.suppress(UnusableError):  # what Pillow does not read has no transparency
            transparent = has_transparent_pixels(file)
    if transparent:
        raise UnusableError(f"it has transparent pixels, which could mean either: {REMEDY}")
    levels = _levels(numbers)
    if levels.ndim == 3:
        if np.ptp(levels, axis=-1).max() > SOFT:
            raise UnusableError(f"it is in colour: {REMEDY}")
        levels = levels[..., 0]
    if levels.min() == levels.max():
        raise UnusableError(f"it hides {0 if levels.max() else 100} % of the pixels: {REMEDY}")
    gray = float(np.mean((levels > SOFT) & (levels < 255 - SOFT)))
    if gray > MAX_GRAY_SHARE:
        raise UnusableError(f"{gray:.0%} of its pixels are gray: {REMEDY}")
    return levels > 127


def _levels(numbers: np.ndarray) -> np.ndarray:
    """The numbers of a picture from 0 to 255, where some of them are black and some white, or all are the same."""
    try:
        require_numbers(numbers)
    except InputError as error:
        raise UnusableError(str(error)) from error
    low, high = numbers.min().item(), numbers.max().item()
    white = next((white for white in WHITES if high <= white), WHITES[-1])
    black_and_white = 0 <= low <= white * SOFT / 255 and white * (1 - SOFT / 255) <= high <= white
    if not black_and_white and not (low == high and low in (0, white)):
        raise UnusableError(f"its values go from {low:g} to {high:g} instead of 0 to {white}: {REMEDY}")
    return numbers * (255.0 / white)


def _check_array(mask: np.ndarray) -> np.ndarray:
    if fault := mask_fault(mask):
        raise UnusableError(f"save {fault}")
    return mask != 0
