import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import operators
from fmdp.errors import InputError
from fmdp.restoration import solve
from fmdp.restoration.prepare import MIN_SIGMA, estimate_noise
from fmdp.restoration.request import Request
from fmdp.restoration.restore import restore
from tests.support.exact_priors import COLOUR, PRIOR

pytestmark = pytest.mark.device


def picture(height, width, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, channels)).astype(np.float32)


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (21, 13)])
def test_denoising_any_size_is_the_closed_form(size):
    """Where pixels are independent the minimum-error estimate is y times var / (var + sigma^2), of tiles as well."""
    y = picture(*size)
    restored = restore(PRIOR, y, Request(degraded=True, sigma=0.3, lookaheads=(0.0, 1.0)))
    assert restored.images.shape == (2, 1, *size, 1)
    np.testing.assert_allclose(restored.images[0, 0], y * 0.25 / (0.25 + 0.09), atol=1e-5)
    np.testing.assert_allclose(restored.images[1, 0], y * np.sqrt(0.25 / (0.25 + 0.09)), atol=1e-5)
    assert restored.facts["tiles"] == {8: 1, 3: 1, 21: 5 * 3}[size[0]]


@pytest.mark.slow
def test_what_is_hidden_is_filled_in_and_what_is_seen_is_kept():
    x = 0.5 * picture(10, 8)
    request = Request(
        operator="box_inpainting",
        parameters={"size": 4},
        degraded=False,
        sigma=0.01,
        lookaheads=(1.0,),
        num_samples=16,
    )
    restored = restore(PRIOR, x, request)
    seen = np.ones_like(x, bool)
    seen[3:7, 2:6] = False
    assert np.abs(restored.images[0] - x)[:, seen].max() < 0.06
    assert restored.images[0][:, ~seen].mean() == pytest.approx(0, abs=0.1)  # as the prior has it
    assert restored.images[0][:, ~seen].std() == pytest.approx(0.5, rel=0.15)
    assert len(restored.facts["psnr_of_samples"][0]) == 16
    error = np.square(restored.images[0].mean(0).clip(-1, 1) - x).mean()
    assert restored.facts["psnr"] == [pytest.approx(10 * np.log10(4 / error), abs=1e-4)]
    assert restored.facts["psnr"][0] > max(restored.facts["psnr_of_samples"][0])
    assert restored.facts["notes"] == ["padded from 10x8 to 12x8, and cropped again"]
    again = restore(PRIOR, x, request)
    np.testing.assert_array_equal(again.images, restored.images)


@pytest.mark.slow
def test_colour_and_gray_meet():
    facts = restore(PRIOR, picture(8, 8, 3), Request(degraded=True, sigma=0.1)).facts
    assert "converted to gray" in facts["notes"][0]
    restored = restore(COLOUR, picture(8, 8), Request(degraded=True, sigma=0.1))
    assert restored.images.shape[-1] == 3
    request = Request(operator="colorization", degraded=True, sigma=0.05, steps=10)
    assert restore(COLOUR, picture(8, 8), request).images.shape[-1] == 3
    with pytest.raises(InputError, match="colorization: needs 3 channels"):
        restore(PRIOR, picture(8, 8), Request(operator="colorization", degraded=False))
    x = picture(8, 8, 3)
    luma = x @ np.float32([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(restore(PRIOR, x, Request(degraded=False, sigma=0.1)).clean, luma, atol=1e-6)


@pytest.mark.slow
def test_a_small_picture_is_enlarged_and_an_odd_one_cropped():
    request = Request(operator="super_resolution", parameters={"factor": 2}, degraded=True, sigma=0.05, steps=5)
    assert restore(PRIOR, picture(6, 5), request).images.shape == (1, 1, 12, 10, 1)
    request = Request(operator="decimation", parameters={"factor": 2}, degraded=False, steps=5)
    restored = restore(PRIOR, picture(9, 7), request)
    assert restored.clean.shape == (8, 6, 1)
    assert restored.facts["notes"][0] == "cropped from 9x7 to 8x6, which 2 divides"


@pytest.mark.slow
def test_an_operator_of_your_own_measures_pictures_of_its_size():
    rows = operators.from_function(lambda x: x[::2, :, 0], (12, 9, 1), linear=True, name="even_rows")
    x = 0.5 * picture(12, 9)
    request = Request(operator=rows, degraded=False, sigma=0.01, num_samples=8)
    restored = restore(PRIOR, x, request)
    assert restored.measured.shape == (6, 9)
    assert restored.facts["tiles"] == 2 * 2
    assert np.abs(restored.images - x)[..., ::2, :, :].max() < 0.06
    assert restored.images[..., 1::2, :, :].mean() == pytest.approx(0, abs=0.1)  # as the prior has it
    again = restore(PRIOR, restored.measured, Request(operator=rows, degraded=True, sigma=0.01, num_samples=8))
    np.testing.assert_allclose(again.images, restored.images, atol=1e-6)
    named = operators.from_function(lambda x: x[::2], (12, 9, 1), linear=True, name="my_inpainting")
    assert restore(PRIOR, x[::2], Request(operator=named, degraded=True, steps=2)).images.shape[2:] == (12, 9, 1)
    for given, changes, message in [
        (
            picture(8, 8),
            dict(degraded=False),
            "even_rows takes images of shape (12, 9, 1), and this image has shape (8, 8, 1): crop or resize it to "
            "(12, 9, 1), or make the operator with image_shape=(8, 8, 1)",
        ),
        (
            picture(8, 8),
            dict(degraded=True),
            "even_rows of an image (12, 9, 1) measures (6, 9), and this measurement has shape (8, 8, 1): pass one of "
            "(6, 9), or make the operator for the size of the restored image",
        ),
    ]:
        with pytest.raises(InputError) as refused:
            restore(PRIOR, given, Request(operator=rows, **changes))
        assert message in str(refused.value)
    with pytest.raises(InputError, match="the prior's have 3 channels"):
        restore(COLOUR, x, request)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 1), complex), "an image of complex128: it holds complex128: give real numbers"),
        (np.full((8, 8, 1), np.nan), "it holds 64 NaN among 64 values, the first at [0, 0, 0]: leave them out, or"),
        (np.zeros((8, 8, 4)), "an image of shape (8, 8, 4): give [height, width, 1 or 3]"),
        (np.zeros((0, 8)), "an image of shape (0, 8, 1)"),
        (np.full((8, 8, 1), 200.0), "Request(range=None): values from 200 to 200 are not floats from -1 to 1: state"),
        (np.linspace(0, 1, 64).reshape(8, 8), "values from 0 to 1 use only the upper half of [-1, 1]: state the val"),
        (np.zeros((3, 8, 8)), "give [height, width, 1 or 3]; the channels come first: move them last with np.moveaxis"),
    ],
)
def test_arrays_that_are_not_images_are_one_line(given, message):
    with pytest.raises(InputError) as refused:
        restore(PRIOR, given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_ranges_of_arrays_are_stated_or_cannot_be_mistaken():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    request = Request(degraded=True, sigma=0.1)
    wanted = restore(PRIOR, pixels / 127.5 - 1, request)
    for array, stated in [
        (pixels, None),
        (pixels / 255, (0, 1)),
        (pixels, (0.0, 255.0)),
        (pixels.astype(np.float64), (0, 255)),
        (pixels.astype(np.int64) * 16, (0, 4080)),
        (jnp.asarray(pixels / 127.5 - 1, jnp.float32), (-1, 1)),
    ]:
        found = restore(PRIOR, array, Request(degraded=True, sigma=0.1, range=stated))
        np.testing.assert_allclose(found.images, wanted.images, atol=2e-6)
        np.testing.assert_allclose(found.measured, wanted.measured, atol=2e-6)
        assert found.notes == ()
    twelve = restore(PRIOR, np.uint16([[0, 4000], [1, 2]]), request)
    np.testing.assert_allclose(twelve.measured[..., 0], np.array([[0, 4000], [1, 2]]) / 2047.5 - 1, atol=1e-6)
    assert twelve.facts["notes"][0] == "values from 0 to 4000 of uint16: white is taken as 4095"
    half = restore(PRIOR, jnp.asarray(pixels / 127.5 - 1, jnp.bfloat16), request)
    np.testing.assert_allclose(half.measured, wanted.measured, atol=1e-2)
    with pytest.raises(
        InputError, match=r"Request\(range=\(0, 1\)\): values from 4 to 248 are far from black and white"
    ):
        restore(PRIOR, pixels.astype(float), Request(range=(0, 1)))


def test_a_measurement_by_an_operator_of_ones_own_has_no_range():
    own = operators.from_function(lambda x: 100 * x[::2], (8, 8, 1), linear=True, name="scaled")
    y = np.linspace(0, 90, 32).reshape(4, 8, 1)
    restored = restore(PRIOR, y, Request(operator=own, degraded=True, steps=2))
    np.testing.assert_allclose(restored.measured, y, atol=1e-5)
    with pytest.raises(InputError, match="by an operator of your own is taken as it is: leave it out"):
        restore(PRIOR, y, Request(operator=own, degraded=True, range=(0, 90)))


def test_a_gray_array_needs_no_channels():
    np.testing.assert_array_equal(restore(PRIOR, picture(8, 8)[..., 0]).images, restore(PRIOR, picture(8, 8)).images)


def test_noise_is_estimated_where_it_is_not_given():
    rng = np.random.default_rng(0)
    smooth = np.linspace(-0.5, 0.5, 64)[:, None, None] * np.ones((64, 64, 1))
    for sigma in (0.05, 0.2):
        noisy = (smooth + sigma * rng.standard_normal(smooth.shape)).astype(np.float32)
        assert estimate_noise(noisy) == pytest.approx(sigma, rel=0.1)
        facts = restore(PRIOR, noisy, Request(degraded=True)).facts
        assert facts["sigma_estimated"]
        assert facts["sigma"] == pytest.approx(sigma, rel=0.1)
    assert estimate_noise(np.zeros((1, 1, 1), np.float32)) == MIN_SIGMA
    facts = restore(PRIOR, np.clip(noisy - 0.9, -1, 1), Request(degraded=True)).facts
    assert facts["sigma"] < 0.17  # of 0.2
    assert re.search(r"\d\d% of the pixels are black or white, where noise is clipped", facts["notes"][-1])


def test_a_stated_noise_level_that_is_far_from_the_estimate_is_noted():
    rng = np.random.default_rng(0)
    smooth = np.linspace(-0.5, 0.5, 64)[:, None, None] * np.ones((64, 64, 3))
    noisy = (smooth + 0.1 * rng.standard_normal(smooth.shape)).astype(np.float32)
    for stated in (0.05, 0.1, 0.25):
        assert restore(COLOUR, noisy, Request(sigma=stated)).notes == ()
    for prior, others in (
        (COLOUR, []),
        (PRIOR, ["converted to gray, as this prior has no colour"]),
    ):  # the same in gray
        *before, note = restore(prior, noisy, Request(sigma=0.5)).notes
        assert [other.text for other in before] == others
        assert note.parameter == "sigma"
        assert re.fullmatch(
            r"the noise is stated as 0\.5 \(63\.8 of 255\), which is used, but it looks like 0\.(09\d+|1\d*) "
            r"\(1[123](\.\d)? of 255\): see that the unit is right",
            note.text,
        )
        assert "it looks like" in restore(prior, noisy, Request(sigma=0.0)).notes[-1].text
    facts = restore(COLOUR, noisy, Request(sigma=0.5)).facts
    assert (facts["sigma"], facts["sigma_estimated"]) == (0.5, False)
    assert restore(COLOUR, noisy, Request(sigma=0.5, degraded=False)).notes == ()
    assert restore(COLOUR, noisy[:8], Request(sigma=0.5)).notes == ()  # too few pixels


def test_noise_of_colours_is_averaged_where_they_become_gray():
    gray = restore(PRIOR, picture(8, 8, 3), Request(degraded=True, sigma=0.3)).facts["sigma"]
    noise = np.random.default_rng(0).normal(0, 0.3, (100, 100, 3)) @ [0.299, 0.587, 0.114]
    assert gray == pytest.approx(noise.std(), rel=0.03)


def test_plug_and_play_needs_no_noise_level_and_hidden_pixels_are_not_measured():
    request = Request(operator="box_inpainting", parameters={"size": 4}, degraded=True, steps=10)
    black, gray = 0.5 * picture(8, 8), 0.5 * picture(8, 8)
    black[2:6, 2:6], gray[2:6, 2:6] = -1, 0
    plain = restore(PRIOR, black, request)
    assert "sigma" not in plain.facts
    assert plain.facts["notes"] == []
    given = restore(PRIOR, gray, dataclasses.replace(request, sigma=0.3))
    assert given.notes[0].parameter == "sigma"
    assert "has no effect" in given.facts["notes"][0]
    np.testing.assert_allclose(given.images, plain.images, atol=1e-6)
    np.testing.assert_allclose(given.facts["data_residual"], plain.facts["data_residual"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(operator="box_inpainting", parameters={"size": 9}), "box_inpainting: size=9 does not fit into 8x8"),
        (
            dict(operator="decimation", parameters={"factor": 10**6}, degraded=True),
            "Request(parameters={'factor': 1000000}): they make 8000000x8000000, more than",
        ),
        (
            dict(operator="gaussian_blur", parameters={"kernel_size": 3, "std": 1.0}, gain=1e6, steps=30),
            "Request(gain=1000000.0): this image: pnp diverged at step",
        ),
    ],
)
def test_requests_that_this_image_cannot_meet_are_one_line(changes, message):
    request = Request(**changes)
    with pytest.raises(InputError) as refused:
        restore(PRIOR, picture(8, 8), request)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_requests_compile_once_for_each_canvas():
    """Not for other numbers, of other types, nor for images that take the same tiles."""
    request = Request(operator="box_inpainting", parameters={"size": 2}, steps=3, sigma=0.1)
    restore(PRIOR, picture(9, 12), request)
    compiled = solve._plug_and_play_at._cache_size()
    for name, value in [("gain", 1), ("gain", 0.5), ("sigma", 1), ("seed", 3), ("lookaheads", (1,))]:
        other = dataclasses.replace(request)
        object.__setattr__(other, name, value)  # no types are checked outside the tests
        restore(PRIOR, picture(9, 12, seed=1), other)
    assert solve._plug_and_play_at._cache_size() == compiled
    restore(PRIOR, picture(3, 5), Request(degraded=True, sigma=0.1))
    compiled = solve._denoise_at._cache_size()
    for size, sigma in [((8, 8), 1.0), ((7, 2), 0.3), ((8, 5), 0.5)]:
        restore(PRIOR, picture(*size), Request(degraded=True, sigma=sigma))
    assert solve._denoise_at._cache_size() == compiled
