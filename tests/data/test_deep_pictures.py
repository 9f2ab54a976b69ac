"""Picture files of more than 8 bits to train on: read with their range, or left out by name at the start."""

import io

import numpy as np
import pytest
from PIL import Image

from fmdp import data
from fmdp.data import decoding
from fmdp.data.decoding import ImagePreprocessor, UnusableError
from fmdp.errors import InputError
from fmdp.restoration.output_formats import encode_png16
from tests.data.test_decoding import encoded, settings

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)
COLOUR16 = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), np.uint16)
TWELVE = (RAMP * 16 + 15).astype(np.uint16)  # 15 to 4095


def reader(channels=1, **options):
    return ImagePreprocessor(size=16, channels=channels, max_pixels=10_000, **options)


def read(content, channels=1, **options):
    return reader(channels, **options).decode(io.BytesIO(content))[..., 0 if channels == 1 else slice(None)]


def tiff(pixels, **options):
    return encoded(Image.fromarray(pixels), "TIFF", **options)


@pytest.fixture
def folder(tmp_path):
    """Eight pictures of 16 bits, with values of 12, and one of floating-point numbers from 0 to 1."""
    for i in range(8):
        (tmp_path / f"{i}.tif").write_bytes(tiff(TWELVE))
    (tmp_path / "float.tif").write_bytes(tiff((RAMP / 255).astype(np.float32)))
    return tmp_path


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_stated_range_maps_every_level(kind):
    content = encoded(Image.fromarray(TWELVE), kind)
    np.testing.assert_array_equal(read(content, range=(15, 4095)), RAMP)
    np.testing.assert_array_equal(read(content), np.round(TWELVE / 257))  # as in the versions before
    np.testing.assert_array_equal(read(content, 3, range=(15, 4095)), RAMP[..., None].repeat(3, -1))


def test_floats_and_wide_integers_are_read_with_their_range():
    floats = tiff((RAMP / 255).astype(np.float32))
    np.testing.assert_array_equal(read(floats, range=(0, 1)), RAMP)
    scaled = tiff((RAMP * 100.0 - 700).astype(np.float32))
    np.testing.assert_array_equal(read(scaled, range=(-700, 24_800)), RAMP)
    wide = tiff(RAMP.astype(np.int32) * 1000 - 5000)
    np.testing.assert_array_equal(read(wide, range=(-5000, 250_000)), RAMP)
    for content, message in [(floats, "floating-point numbers"), (wide, "integers from -5000 to 250000, of more than")]:
        with pytest.raises(UnusableError, match=f"{message}.*: state the values of black and white") as refused:
            reader().check(io.BytesIO(content))
        assert refused.value.parameter == "range"
    spoiled = (RAMP / 255).astype(np.float32)
    spoiled[2, 3] = np.nan
    with pytest.raises(UnusableError, match=r"it holds 1 NaN among 256 values, the first at \[2, 3\]"):
        read(tiff(spoiled), range=(0, 1))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_colour_of_16_bits_keeps_them_in_tiff(compression):
    tifffile = pytest.importorskip("tifffile")
    for order in "<>":
        file = io.BytesIO()
        packed = {None: None, "tiff_lzw": "zlib", "tiff_adobe_deflate": "zlib"}[compression]
        tifffile.imwrite(file, COLOUR16, photometric="rgb", byteorder=order, compression=packed)
        found = read(file.getvalue(), 3, range=(0, 65535))
        np.testing.assert_array_equal(found, np.round(COLOUR16 / 257))


def test_colour_of_16_bits_keeps_them_in_png():
    content = encode_png16(COLOUR16)
    np.testing.assert_array_equal(read(content, 3, range=(0, 65535)), np.round(COLOUR16 / 257))
    twelve = encode_png16(np.stack([TWELVE] * 3, -1))
    np.testing.assert_array_equal(read(twelve, 3, range=(15, 4095))[..., 1], RAMP)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(TWELVE), "PNG", exif=exif)
    np.testing.assert_array_equal(read(turned, range=(15, 4095)), np.rot90(RAMP, -1))


def test_lab_becomes_srgb():
    """L* = 50 is the gray 118.9 of 255, by the CIE's formula for L* and sRGB's transfer function."""
    lab = Image.merge(
        "LAB", [Image.new("L", (16, 16), 128), Image.new("L", (16, 16), 128), Image.new("L", (16, 16), 128)]
    )
    found = read(encoded(lab, "TIFF"), 3)
    luminance = ((128 * 100 / 255 + 16) / 116) ** 3
    gray = 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)
    assert np.abs(found - gray).max() < 1.0


def test_floats_in_a_folder_are_left_out_by_name_or_read(folder, caplog):
    split = data.load_split(settings(folder, channels=1))
    assert len(split.train) + len(split.test) == 8
    told = "'float.tif': its pixels are floating-point numbers: state the values of black and white (config.data.range)"
    assert split.left_out == (told,)
    with pytest.raises(
        InputError, match=r"float.tif': its pixels are floating-point .*\(config.data.range\); remove it"
    ):
        data.load_split(settings(folder, channels=1, strict=True))
    (folder / "float.tif").rename(folder.parent / "alone.tif")
    caplog.clear()
    split = data.load_split(settings(folder, channels=1, range=(15.0, 4095.0)))
    np.testing.assert_allclose(split.train[:1][0, ..., 0], RAMP / 127.5 - 1, atol=1e-6)
    assert not caplog.records


def test_twelve_bits_without_a_range_are_told_of(folder, caplog):
    decoding._warn_once.cache_clear()
    split = data.load_split(settings(folder, channels=1))
    np.testing.assert_allclose(split.train[:2][1, ..., 0], np.round(TWELVE / 257) / 127.5 - 1, atol=1e-6)
    told = "a picture of 16 bits has values of 12 alone: white is 65535 unless config.data.range says it"
    assert caplog.messages.count(told) == 1


def test_crops_have_the_range_too(folder):
    split = data.load_split(settings(folder, channels=1, range=(15.0, 4095.0), crop="random"))
    (folder / "float.tif").unlink()
    np.testing.assert_allclose(split.train[:1][0, ..., 0], RAMP / 127.5 - 1, atol=1e-6)
