import io
import logging

import numpy as np
import pytest
from PIL import Image, ImageCms

from fmdp.data import decoding
from fmdp.data.color_profiles import srgb_profile, to_srgb
from fmdp.data.decoding import ImagePreprocessor
from tests.support.color_profiles import ADOBE_RGB, DISPLAY_P3, SRGB, SRGB_CURVE, in_srgb, profile

COLOUR, GRAY = (ImagePreprocessor(size=16, channels=channels, max_pixels=10_000) for channels in (3, 1))
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def colours(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def decode(image, frame=COLOUR, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return frame.decode(file).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("curve", "colorants"), [(SRGB_CURVE, DISPLAY_P3), (2.19921875, ADOBE_RGB), (1.8, SRGB), (1.0, SRGB)]
)
def test_colours_of_a_profile_become_those_of_srgb(curve, colorants, kind):
    pixels, embedded = colours(), profile(curve, colorants)
    decoded = decode(Image.fromarray(pixels), kind=kind, icc_profile=embedded)
    wanted = in_srgb(pixels, curve, colorants)
    assert np.abs(wanted - pixels).max() > 10
    assert np.abs(decoded - wanted).max() < 2
    theirs = ImageCms.profileToProfile(Image.fromarray(pixels), io.BytesIO(embedded), ImageCms.createProfile("sRGB"))
    np.testing.assert_array_equal(decoded, theirs)
    gray = decode(Image.fromarray(pixels), GRAY, kind=kind, icc_profile=embedded)
    np.testing.assert_array_equal(gray[..., 0], theirs.convert("L"))


@pytest.mark.parametrize("colorants", [None, SRGB, ADOBE_RGB])
def test_gray_stays_gray(colorants):
    """A profile for gray, and the neutral colours of one for colours."""
    embedded = profile(1.8, colorants)
    decoded = decode(Image.fromarray(LEVELS), icc_profile=embedded)
    assert (decoded == decoded[..., :1]).all()
    assert np.abs(decoded[..., 0] - in_srgb(LEVELS.astype(float), 1.8)).max() < 2
    np.testing.assert_array_equal(decode(Image.fromarray(LEVELS), GRAY, icc_profile=embedded), decoded[..., :1])
    sixteen = Image.fromarray(LEVELS.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(sixteen, icc_profile=embedded), decoded)


@pytest.mark.parametrize("embedded", [srgb_profile(), profile(SRGB_CURVE, SRGB)])
def test_srgb_changes_nothing(embedded):
    pixels = colours()
    np.testing.assert_array_equal(decode(Image.fromarray(pixels), icc_profile=embedded), pixels)
    image = Image.fromarray(pixels)
    assert to_srgb(image, embedded) is image
    assert to_srgb(image, None) is image


def test_transparent_parts_stay_white():
    pixels, embedded = colours(), profile(SRGB_CURVE, DISPLAY_P3)
    alpha = np.repeat([[0], [255]], 8, axis=0).astype(np.uint8).repeat(16, 1)
    opaque = decode(Image.fromarray(pixels), icc_profile=embedded)
    clear = Image.fromarray(np.dstack([pixels, alpha]))
    decoded = decode(clear, icc_profile=embedded)
    assert (decoded[:8] == 255).all()
    np.testing.assert_array_equal(decoded[8:], opaque[8:])
    gray = Image.merge("LA", [Image.fromarray(LEVELS), Image.fromarray(alpha)])
    decoded = decode(gray, icc_profile=profile(1.8))
    assert (decoded[:8] == 255).all()
    np.testing.assert_array_equal(decoded[8:], decode(Image.fromarray(LEVELS), icc_profile=profile(1.8))[8:])
    palette = Image.fromarray(pixels).quantize(16)
    wanted = decode(palette.convert("RGB"), icc_profile=embedded)
    np.testing.assert_array_equal(decode(palette, icc_profile=embedded), wanted)
    decoded = decode(palette, icc_profile=embedded, transparency=0)
    clear = np.asarray(palette) == 0
    assert (decoded[clear] == 255).all()
    np.testing.assert_array_equal(decoded[~clear], wanted[~clear])


@pytest.mark.parametrize(
    ("mode", "embedded"),
    [
        ("RGB", b"no profile"),
        ("RGB", profile(1.8, ADOBE_RGB)[:300]),
        ("RGB", profile(1.8)),
        ("CMYK", profile(1.8, ADOBE_RGB)),
    ],
)
def test_a_profile_that_cannot_be_used_is_said_once(mode, embedded, caplog):
    image = Image.fromarray(colours()).convert(mode)
    decoding._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(decode(image, kind="TIFF", icc_profile=embedded), image.convert("RGB"))
    (said,) = caplog.records
    assert "the colour profile cannot be used (cannot " in said.getMessage()
    assert said.getMessage().endswith("): the picture counts as sRGB")
