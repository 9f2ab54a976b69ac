"""Colour profiles that image files carry (ICC): their colours become those of sRGB, by littleCMS."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from fmdp.errors import reason

DEEP = "the colour profile is not converted, as the picture has more than 8 bits: it counts as sRGB, save it as such"
ROUNDING = 2  # of 255: a profile that changes no colour by more is one of sRGB


class ProfileError(Exception):
    """A colour profile that cannot be used; the message says why."""


def in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None, str]:
    """An image of 8 bits in sRGB, by the profile that its file carries.

    Returns:
      The image; the profile of sRGB, None where the file carries none that can be used; and a note, "" where nothing
      was changed.
    """
    try:
        converted = to_srgb(image, profile)
    except ProfileError as error:
        return image, None, f"the colour profile cannot be used ({error}): the picture counts as sRGB"
    note = "the colours were converted to sRGB" if converted is not image else ""
    return converted, srgb_profile() if profile else None, note


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of 8 bits whose colours are those of a profile, in sRGB.

    Gray stays gray, and transparency is kept. An image without a profile, or in sRGB, is returned itself.

    Raises:
      ProfileError: the profile is damaged, or is not one for such pixels.
    """
    if not profile:
        return image
    if not isinstance(profile, bytes):
        raise ProfileError("it is damaged")
    kind = "L" if image.mode in ("1", "L", "LA") else "CMYK" if image.mode == "CMYK" else "RGB"
    converter = _converter(profile, kind)
    if converter is None:
        return image
    clear = image.convert("RGBA") if image.has_transparency_data else None
    opaque = (clear if clear is not None and kind == "RGB" else image).convert(kind)
    converted = opaque.point(converter) if isinstance(converter, list) else _apply(converter, opaque)
    if clear is not None:
        converted.putalpha(clear.getchannel("A"))
    return converted


def deep_profile(profile: bytes | None, colour: bool) -> tuple[bytes | None, str]:
    """What `in_srgb` returns beside an image of more than 8 bits, whose colours are not converted."""
    _, found, note = in_srgb(Image.new("RGB" if colour else "L", (1, 1)), profile)
    if found and note:
        return None, DEEP
    return found, note


@functools.cache
def srgb_profile() -> bytes:
    """The profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.lru_cache(maxsize=16)  # the pictures of a folder have few
def _converter(profile: bytes, kind: str) -> ImageCms.ImageCmsTransform | list[int] | None:
    """From pixels of a kind ("L", "RGB" or "CMYK") to sRGB: for gray the new value of each; None for those of sRGB."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Gray pixels with a profile for colours are its neutral ones.
        mode = "RGB" if kind == "L" and opened.profile.xcolor_space.strip() == "RGB" else kind
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception as error:  # Pillow raises many kinds, and another where it was built without littleCMS
        raise ProfileError(reason(error)) from error
    if kind == "CMYK":
        return transform
    grid = np.arange(256) if kind == "L" else np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(1, -1, 3)
    before = Image.fromarray(np.atleast_2d(grid).astype(np.uint8))
    after = _apply(transform, before.convert(mode)).convert(kind)
    if np.abs(np.asarray(after, int) - grid).max() <= ROUNDING:
        return None
    return np.asarray(after)[0].tolist() if kind == "L" else transform


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is where the image is not changed in place
    return converted
