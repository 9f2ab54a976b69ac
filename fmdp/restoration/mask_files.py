"""Masks as files: white, or 1, where a pixel is observed, and black, or 0, where it is hidden."""

import pathlib

import numpy as np

from fmdp.data.decoding import has_transparent_pixels, open_file
from fmdp.data.unusable import UnusableError
from fmdp.operators.inpainting import mask_fault
from fmdp.restoration.picture_files import NPY, PREPROCESSOR, read_plane

SOFT = 32  # of 255: what lies farther from black and white than that is gray, and not an error of JPEG
MAX_GRAY_SHARE = 0.2  # of the pixels, for soft edges
REMEDY = "paint observed pixels white and hidden ones black"


def read_mask(path: pathlib.Path) -> np.ndarray:
    """A mask as bool [H, W], True where a pixel is observed.

    Bytes of 0 and 1 count as black and white. Soft edges are divided in the middle. An .npy file holds what
    `inpainting.mask_fault` accepts.

    Raises:
      UnusableError: it is not an image, or its pixels do not say which of them are observed: they are in colour or
        transparent, do not reach black and white, lie between them, or are all the same.
      OSError: it cannot be read.
    """
    with open_file(path) as file:
        if file.read(len(NPY)) == NPY:
            return _check_array(read_plane(path))
        file.seek(0)
        levels = np.asarray(PREPROCESSOR.upright(file)).astype(int)
        file.seek(0)
        if has_transparent_pixels(file):
            raise UnusableError(f"it has transparent pixels, which could mean either: {REMEDY}")
    if np.ptp(levels, axis=-1).max() > SOFT:
        raise UnusableError(f"it is in colour: {REMEDY}")
    levels = levels[..., 0]
    if levels.max() <= 1:
        levels = 255 * levels
    low, high = int(levels.min()), int(levels.max())
    if low == high and low in (0, 255):
        raise UnusableError(f"it hides {100 if low == 0 else 0} % of the pixels: {REMEDY}")
    if low > SOFT or high < 255 - SOFT:
        raise UnusableError(f"its values go from {low} to {high} instead of 0 to 255: {REMEDY}")
    gray = float(np.mean((levels > SOFT) & (levels < 255 - SOFT)))
    if gray > MAX_GRAY_SHARE:
        raise UnusableError(f"{gray:.0%} of its pixels are gray: {REMEDY}")
    return levels > 127


def _check_array(mask: np.ndarray) -> np.ndarray:
    if fault := mask_fault(mask):
        raise UnusableError(f"save {fault}")
    return mask != 0
