import numpy as np
import pytest
from PIL import Image

from fmdp.data.decoding import UnusableError
from fmdp.restoration.mask_files import read_mask
from fmdp.restoration.output_formats import encode_png16

SEEN = np.ones((20, 30), bool)
SEEN[5:9, 10:20] = False


def written(tmp_path, pixels, mode=None, suffix=".png", **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    path = tmp_path / f"mask{suffix}"
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("pixels", "mode", "suffix"),
    [
        (SEEN, None, ".png"),
        (SEEN.astype(np.uint8), None, ".png"),
        (SEEN.astype(np.uint8) * 255, None, ".png"),
        (SEEN.astype(np.uint8) * 255, "RGB", ".png"),
        (SEEN.astype(np.uint8) * 255, "RGBA", ".png"),
        (SEEN.astype(np.uint8) * 255, "P", ".gif"),
        (SEEN.astype(np.uint8) * 255, "RGB", ".jpg"),
        (SEEN.astype(np.uint16) * 65535, None, ".tif"),
        (SEEN.astype(np.uint16) * 65535, None, ".png"),
        (SEEN.astype(np.uint16) * 4095, None, ".png"),
        (SEEN.astype(np.uint16) * 255, None, ".tif"),
        (SEEN.astype(np.uint16), None, ".png"),
        (SEEN.astype(np.int32) * 65535, None, ".tif"),
        (SEEN.astype(np.float32), None, ".tif"),
        (SEEN.astype(np.float32) * 255, None, ".tif"),
    ],
)
def test_white_is_observed_and_black_is_hidden(tmp_path, pixels, mode, suffix):
    mask = read_mask(written(tmp_path, pixels, mode, suffix))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, SEEN)


def test_numbers_that_are_no_levels_are_refused_by_name(tmp_path):
    values = np.where(SEEN, np.float32(1), np.float32(-1))
    with pytest.raises(UnusableError, match="its values go from -1 to 1 instead of 0 to 1: paint observed pixels"):
        read_mask(written(tmp_path, values, suffix=".tif"))
    with pytest.raises(UnusableError, match="its values go from 0 to 100000 instead of 0 to 65535"):
        read_mask(written(tmp_path, labels(0, 100).astype(np.int32) * 1000, suffix=".tif"))
    values[3, 4] = np.nan
    with pytest.raises(UnusableError, match="it holds 1 NaN among 600 values"):
        read_mask(written(tmp_path, values, suffix=".tif"))


def test_masks_of_16_bits_in_colour_are_gray(tmp_path):
    deep = np.repeat(SEEN.astype(np.uint16)[..., None] * 65535, 3, -1)
    (tmp_path / "mask.png").write_bytes(encode_png16(deep))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), SEEN)
    deep[0, 0, 1] = 0
    (tmp_path / "mask.png").write_bytes(encode_png16(deep))
    with pytest.raises(UnusableError, match="it is in colour: paint"):
        read_mask(tmp_path / "mask.png")


def test_soft_edges_are_divided_in_the_middle(tmp_path):
    large = Image.fromarray(SEEN.astype(np.uint8) * 255).resize((120, 80), Image.Resampling.NEAREST)
    soft = large.resize((60, 40), Image.Resampling.BICUBIC, box=(1, 1, 119, 79))
    levels = np.asarray(soft)
    assert len(np.unique(levels)) > 2
    np.testing.assert_array_equal(read_mask(written(tmp_path, soft)), levels > 127)


def with_hole(level):
    alpha = Image.fromarray(SEEN.astype(np.uint8) * 255)
    image = Image.new("L", alpha.size, level)
    image.putalpha(alpha)
    return image


def labels(low, high):
    return np.where(SEEN, high, low).astype(np.uint8)


REMEDY = ": paint observed pixels white and hidden ones black"


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (labels(0, 3), "its values go from 0 to 3 instead of 0 to 255"),
        (labels(0, 128), "its values go from 0 to 128 instead of 0 to 255"),
        (labels(100, 255), "its values go from 100 to 255 instead of 0 to 255"),
        (labels(0, 3).astype(np.uint16), "its values go from 0 to 3 instead of 0 to 255"),
        (labels(0, 128).astype(np.uint16) * 256, "its values go from 0 to 32768 instead of 0 to 65535"),
        (labels(0, 0).astype(np.uint16), "it hides 100 % of the pixels"),
        (labels(0, 0), "it hides 100 % of the pixels"),
        (labels(1, 1), "it hides 0 % of the pixels"),
        (labels(255, 255), "it hides 0 % of the pixels"),
        (np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8), "of its pixels are gray"),
        (np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), "it is in colour"),
        (Image.merge("RGB", [Image.fromarray(labels(a, b)) for a, b in [(255, 0), (0, 0), (0, 0)]]), "it is in colour"),
        (with_hole(255), "it has transparent pixels, which could mean either"),
        (with_hole(0), "it has transparent pixels, which could mean either"),
    ],
)
def test_pictures_that_do_not_say_what_is_hidden_are_refused(tmp_path, pixels, message):
    with pytest.raises(UnusableError) as refused:
        read_mask(written(tmp_path, pixels))
    assert message in str(refused.value)
    assert str(refused.value).endswith(REMEDY)


def test_arrays_are_masks_of_the_same_convention(tmp_path):
    for array in (SEEN, SEEN.astype(np.float32), 255 * SEEN.astype(np.int64)):
        np.save(tmp_path / "mask.npy", array)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy"), SEEN)
    for array, message in [(3 * SEEN, "for hidden ones, not 0, 3"), (0 * SEEN, "it hides 100 %")]:
        np.save(tmp_path / "mask.npy", array)
        with pytest.raises(UnusableError, match=message):
            read_mask(tmp_path / "mask.npy")
