"""Picture files of more than 8 bits a channel: their numbers as they are."""

import contextlib
import functools
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError
from fmdp.io.levels import Range, require_numbers, to_bytes

FIRST_BYTE = {"B": "B", "L": "L", "N": "L" if sys.byteorder == "little" else "B"}  # Pillow's codes of the high byte
OTHER_BYTE = {"B": "L", "L": "B"}


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture, not yet loaded, has more than 8 bits a channel, and no transparency."""
    return image.mode == "F" or image.mode.startswith("I") or _is_deep_colour(image)


def read_numbers(image: Image.Image, reopen: Callable[[], Image.Image]) -> np.ndarray:
    """The numbers of a picture that `is_deep`, upright, [H, W] or, in colour, [H, W, 3], in native byte order.

    Pillow keeps 8 bits of 16-bit colour. It is decoded twice, for the upper and for the lower byte of each number.

    Args:
      reopen: opens the picture again.

    Raises:
      UnusableError: a number is not finite. Pillow raises many kinds of errors for damaged pictures.
    """
    if _is_deep_colour(image):
        high = _load_byte(image, lower=False).astype(np.uint16)
        return high * 256 + _load_byte(reopen(), lower=True)
    numbers = np.asarray(_upright(image))
    try:
        require_numbers(numbers)
    except InputError as error:
        raise UnusableError(str(error)) from error
    return numbers.astype(numbers.dtype.newbyteorder("="))


def as_image(numbers: np.ndarray, taken: Range) -> Image.Image:
    """Numbers as an image of 8 bits."""
    return Image.fromarray(to_bytes(numbers, taken))


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """A picture in CIELAB, of a white point D50, in sRGB."""
    return ImageCms.applyTransform(image, _lab_transform()) or image


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _is_deep_colour(image: Image.Image) -> bool:
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return image.mode == "RGB" and bool(tiles) and all(_raw_mode(tile.args)[:-1] == "RGB;16" for tile in tiles)


def _raw_mode(args: object) -> str:
    """How the bytes of a tile are to be unpacked, by Pillow's code."""
    found = args[0] if isinstance(args, tuple) and args else args
    return found if isinstance(found, str) else ""


def _load_byte(image: Image.Image, lower: bool) -> np.ndarray:
    """The upper or the lower byte of the numbers of 16-bit colour, uint8 [H, W, 3]."""
    assert isinstance(image, ImageFile.ImageFile)
    tiles = []
    for tile in image.tile:
        raw = _raw_mode(tile.args)
        letter = FIRST_BYTE[raw[-1]]
        raw = raw[:-1] + (OTHER_BYTE[letter] if lower else letter)
        tiles.append(tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw))
    image.tile = tiles
    return np.asarray(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    with contextlib.suppress(Exception):  # damaged metadata turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return image
