"""Arrays that people train on: ranges, channels, layouts and numbers that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fmdp import data
from fmdp.config.validation import validate
from fmdp.data.arrays import as_training_images, luma_of_bytes
from fmdp.errors import InputError
from fmdp.io.levels import as_numpy
from fmdp.training import loop
from tests.data.test_decoding import settings
from tests.training.test_loop import IMAGES, small_config

RNG = np.random.default_rng(0)
UNIT = RNG.random((60, 8, 8, 1))
COLOUR = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)


def load(tmp_path, arrays, **changes):
    np.savez(tmp_path / "images.npz", **arrays)
    return data.load_split(settings(tmp_path / "images.npz", size=0, **changes))


def every(split):
    return np.sort(np.concatenate([split.train[:], split.test]).ravel())


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as refused:
        call(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_floats_from_0_to_1_are_refused_until_their_range_is_stated(tmp_path):
    told = refusal(load, tmp_path, dict(images=UNIT))
    assert "images.npz: images: values from " in told
    assert "use only the upper half of [-1, 1]: state the values of black and white, such as (0, 1)" in told
    assert told.endswith("(config.data.range = ())")
    split = load(tmp_path, dict(images=UNIT), range=(0.0, 1.0))
    np.testing.assert_allclose(every(split), np.sort(2 * UNIT.ravel() - 1), atol=1e-6)
    assert split.train[:].dtype == split.test.dtype == np.float32
    as_they_are = load(tmp_path, dict(images=UNIT), range=(-1.0, 1.0))
    np.testing.assert_allclose(every(as_they_are), np.sort(UNIT.ravel()), atol=1e-7)


def test_levels_of_12_bits_are_read_exactly(tmp_path, caplog):
    ramp = np.arange(4096, dtype=np.uint16).reshape(16, 16, 16)
    split = load(tmp_path, dict(images=ramp))
    np.testing.assert_allclose(every(split), np.linspace(-1, 1, 4096), atol=1e-6)
    assert "values from 0 to 4095 of uint16: white is taken as 4095 (config.data.range = ())" in caplog.text
    stated = load(tmp_path, dict(images=ramp), range=(0.0, 65535.0))
    np.testing.assert_allclose(every(stated), np.linspace(-1, 2 * 4095 / 65535 - 1, 4096), atol=1e-6)


def test_one_range_holds_for_both_parts(tmp_path):
    bright, dark = np.arange(64, dtype=np.uint16).reshape(1, 8, 8) + 4000, np.full((1, 8, 8), 900, np.uint16)
    split = load(tmp_path, dict(images=bright, test_images=dark))
    np.testing.assert_allclose(split.test, 2 * 900 / 4095 - 1, atol=1e-6)
    told = refusal(load, tmp_path, dict(images=dark, test_images=bright))
    assert "values from 4000 to 4063 are not in [0, 1023]: state the values of black and white" in told
    assert "values from 0 to 255 are not in [0.0, 1.0]" in refusal(
        load, tmp_path, dict(images=np.arange(256.0).reshape(4, 8, 8)), range=(0.0, 1.0)
    )


def test_bytes_stay_bytes_and_binary_ones_must_be_stated(tmp_path):
    assert isinstance(load(tmp_path, dict(images=COLOUR)).train, data.UInt8Images)
    assert isinstance(load(tmp_path, dict(images=COLOUR), range=(0.0, 255.0)).train, data.UInt8Images)
    binary = RNG.integers(0, 2, (20, 8, 8), np.uint8)
    assert "integers of 0 and 1 alone" in refusal(load, tmp_path, dict(images=binary))
    split = load(tmp_path, dict(images=binary), range=(0.0, 1.0))
    np.testing.assert_array_equal(every(split), np.sort(2.0 * binary.ravel() - 1))


def test_colour_becomes_gray_as_pictures_do(tmp_path):
    wanted = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in COLOUR])
    np.testing.assert_array_equal(luma_of_bytes(COLOUR)[..., 0], wanted)
    split = load(tmp_path, dict(images=COLOUR), channels=1)
    assert split.train.shape[1:] == (8, 8, 1)
    np.testing.assert_array_equal(every(split), every(load(tmp_path, dict(images=wanted), channels=1)))
    floats = load(tmp_path, dict(images=COLOUR / 127.5 - 1), channels=1)
    np.testing.assert_allclose(every(floats), every(split), atol=1 / 255 + 2e-5)  # bytes are rounded
    assert load(tmp_path, dict(images=COLOUR)).train.shape[1:] == (8, 8, 3)
    assert load(tmp_path, dict(images=wanted)).train.shape[1:] == (8, 8, 1)  # gray stays gray


def test_channels_first_is_recognised(tmp_path):
    told = refusal(load, tmp_path, dict(images=np.moveaxis(COLOUR, -1, 1)))
    assert "images has shape (20, 3, 8, 8): the channels come first: move them last with np.moveaxis(x, 1, -1)" in told
    assert "np.moveaxis(x, 1, -1)" in refusal(as_training_images, np.moveaxis(COLOUR, -1, 1), None, None)
    alpha = np.zeros((5, 8, 8, 4), np.uint8)
    assert "leave out the transparency with x[..., :3]" in refusal(load, tmp_path, dict(images=alpha))


def test_an_npy_file_is_read_too(tmp_path):
    np.save(tmp_path / "x.npy", COLOUR)
    split = data.load_split(settings(tmp_path / "x.npy", size=0))
    np.testing.assert_array_equal(every(split), every(load(tmp_path, dict(images=COLOUR))))
    (tmp_path / "x.npy").write_bytes(b"no array")
    told = refusal(data.load_split, settings(tmp_path / "x.npy", size=0))
    assert "x.npy: it is not an .npy file of plain numbers (" in told
    np.save(tmp_path / "x.npy", np.array([None]), allow_pickle=True)
    assert "it holds Python objects" in refusal(data.load_split, settings(tmp_path / "x.npy", size=0))


def test_nan_is_called_so(tmp_path):
    spoiled = 2 * UNIT.astype(np.float32) - 1
    spoiled[3, 1, 2, 0], spoiled[7, 0, 0, 0] = np.nan, np.inf
    told = refusal(load, tmp_path, dict(images=spoiled))
    assert "it holds 1 NaN and 1 infinite values among 3,840 values, the first at [3, 1, 2, 0]: leave them out" in told


def test_ranges_are_checked_and_only_for_what_has_none(tmp_path):
    np.savez(tmp_path / "images.npz", images=COLOUR)
    assert "config.data.range = (1.0, 0.0): must be two numbers" in refusal(load, tmp_path, {}, range=(1.0, 0.0))
    told = refusal(data.load_split, settings("", source="digits", range=(0.0, 16.0)))
    assert "config.data.range = (0.0, 16.0): is of the files of npz, folder, zip, tfds, and digits has a range" in told
    c = small_config()
    validate(c)
    c.data.range = (0.0, 4095.0)
    validate(c)
    c.data.range = (4095.0, 0.0)
    assert "config.data.range = (4095.0, 0.0): must be two numbers" in refusal(validate, c)


def test_plain_arrays_to_train_on_have_the_same_rule():
    images, held_out = as_training_images(COLOUR, COLOUR[:2], None)
    assert isinstance(images, data.UInt8Images)
    np.testing.assert_allclose(held_out, COLOUR[:2] / 127.5 - 1, atol=1e-6)
    images, held_out = as_training_images(UNIT, UNIT[:2], (0, 1))
    np.testing.assert_allclose(images[:], 2 * UNIT - 1, atol=1e-6)
    np.testing.assert_allclose(held_out, 2 * UNIT[:2] - 1, atol=1e-6)
    assert "training images: values from " in refusal(as_training_images, UNIT, None, None)
    assert as_training_images(jnp.asarray(COLOUR[..., 0]), None, None)[0].shape == (20, 8, 8, 1)
    gray, held_out = as_training_images(COLOUR, COLOUR[:2], None, channels=1)
    np.testing.assert_array_equal(gray.pixels, luma_of_bytes(COLOUR))
    np.testing.assert_allclose(held_out, luma_of_bytes(COLOUR[:2]) / 127.5 - 1, atol=1e-6)
    assert "give numbers of shape [n, height, width, channels]" in refusal(as_training_images, UNIT[0, 0], None, None)
    signed = np.float32([[-3.0, 2.0]]).reshape(2, 1, 1, 1)  # of a known target, which has no bounds
    assert as_training_images(signed, signed, None)[0] is signed
    hounsfield = np.linspace(-1000, 3000, 128).reshape(2, 8, 8)
    told = "training images: values from -1000 to 3000 are not floats from -1 to 1: state"
    for spoiled in (0.0, np.nan, np.inf):  # training counts the updates that these spoil
        hounsfield[1, 2, 3] = spoiled
        assert told in refusal(as_training_images, hounsfield, None, None)
    signed = np.concatenate([signed, np.full_like(signed[:1], np.inf)])
    assert as_training_images(signed, None, None)[0] is signed
    loaded = data.UInt8Images(COLOUR)
    assert as_training_images(loaded, None, (0, 1)) == (loaded, None)


@pytest.mark.slow
def test_bytes_train_as_the_floats_that_they_stand_for(tmp_path):
    pixels = np.round((np.clip(IMAGES, -1, 1) + 1) * 127.5).astype(np.uint8)
    floats = data.to_float(pixels)
    c = small_config(steps=3)
    c.train.validation_images = 4
    c.ema.more_half_lives = (100.0,)
    results = [loop.fit(c, x, tmp_path / str(i), x[:4])[0] for i, x in enumerate((pixels, floats))]
    for ours, theirs in zip(*(np.asarray(list(map(np.sum, _leaves(state)))) for state in results), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    c.data.range = (0.0, 1.0)
    scaled, _ = loop.fit(c, (floats + 1) / 2, tmp_path / "unit", (floats[:4] + 1) / 2)
    for ours, theirs in zip(_leaves(scaled), _leaves(results[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    c.data.range = ()
    assert "training images: values from 0 to 1 use only the upper half" in refusal(
        loop.fit, c, (floats + 1) / 2, tmp_path / "refused"
    )
    assert not (tmp_path / "refused").exists()


def _leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves(state.ema)]


def test_points_of_a_plane_have_no_layout():
    points = np.random.default_rng(0).normal(size=(9, 1, 1, 2)).astype(np.float32)
    found, _ = as_training_images(points, None, None)
    np.testing.assert_array_equal(found, points)


def test_bfloat16_is_read_as_numbers_and_both_sets_have_one_scale():
    floats = (COLOUR / 127.5 - 1).astype(np.float32)
    found, _ = as_training_images(jnp.asarray(floats, jnp.bfloat16), None, None)
    np.testing.assert_allclose(found, floats, atol=2**-8)
    assert "held-out ones of uint8: give both on one scale" in refusal(as_training_images, floats, COLOUR, None)


def test_lists_of_different_lengths_are_refused_in_one_line():
    assert refusal(as_numpy, [[0.1, 0.2], [0.3]]).endswith("give rows of one length")


def test_only_numbers_of_pictures_must_lie_in_the_stated_range():
    points = np.float32([[3.0, 4.0], [-7.0, 0.0]]).reshape(2, 1, 1, 2)
    kept, _ = as_training_images(points, None, (-1, 1), 3, bounded=False)  # of a known target
    np.testing.assert_array_equal(kept, points)
    with pytest.raises(InputError, match=r"values from -7 to 4 are not in \[-1, 1\]"):
        as_training_images(points, None, (-1, 1), 3)
