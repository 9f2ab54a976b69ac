"""Batches of images, restoring inside transformations, and noise levels of any type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import operators
from fmdp.errors import InputError
from fmdp.exact import Gaussian
from fmdp.restoration import solve
from fmdp.restoration.request import Request
from fmdp.restoration.restore import restore
from tests.support.exact_priors import PRIOR

pytestmark = pytest.mark.device


def pictures(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


DENOISE = Request(degraded=True, sigma=0.3, lookaheads=(0.0, 1.0))
FILL = Request(operator="box_inpainting", parameters={"size": 2}, degraded=False, sigma=0.1, steps=3, num_samples=2)


@pytest.mark.parametrize("request_", [DENOISE, FILL], ids=["denoising", "inpainting"])
def test_each_of_a_batch_becomes_what_it_becomes_alone_by_the_same_program(request_):
    x = pictures(3, 8, 8, 1)
    alone = [restore(PRIOR, image, request_) for image in x]
    compiled = solve._plug_and_play_at._cache_size(), solve._denoise_at._cache_size()
    batch = restore(PRIOR, x, request_)
    assert (solve._plug_and_play_at._cache_size(), solve._denoise_at._cache_size()) == compiled
    assert batch.images.shape == (3, len(request_.lookaheads), request_.num_samples, 8, 8, 1)
    assert batch.measured.shape == (3, 8, 8, 1)
    for i, one in enumerate(alone):
        np.testing.assert_array_equal(batch.images[i], one.images)
        np.testing.assert_array_equal(batch.measured[i], one.measured)
        assert {name: values[i] for name, values in batch.facts.items()} == one.facts
    if request_.degraded:
        assert batch.clean is None
        np.testing.assert_allclose(batch.images[:, 0, 0], x * 0.25 / (0.25 + 0.09), atol=1e-5)
    else:
        np.testing.assert_array_equal(batch.clean, x)


def test_a_batch_has_one_range():
    """Alone, the dark frame of 12 bits would count as one of 8 bits, and the bright one in [-1, 1] would be refused."""
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8, 1)
    batch = restore(PRIOR, np.stack([ramp, 65 * ramp]), Request(sigma=0.1))
    np.testing.assert_allclose(batch.measured, np.stack([ramp, 65 * ramp]) / 2047.5 - 1, atol=1e-6)
    said = "values from 0 to 4095 of uint16: white is taken as 4095"
    assert [note.text for note in batch.notes] == [said]
    assert batch.facts["notes"] == [[said], [said]]
    x = pictures(2, 8, 8, 1)
    x[1] = np.abs(x[1])
    np.testing.assert_array_equal(restore(PRIOR, x, Request(sigma=0.1)).measured, x)
    x[1, 2, 3, 0] = np.nan
    with pytest.raises(InputError, match=r"it holds 1 NaN among 128 values, the first at \[1, 2, 3, 0\]"):
        restore(PRIOR, x)


def test_a_batch_of_measurements_by_an_operator_of_your_own():
    rows = operators.from_function(lambda x: x[::2, :, 0], (8, 8, 1), linear=True, name="even_rows")
    request = Request(operator=rows, degraded=True, steps=2)
    batch = restore(PRIOR, pictures(2, 4, 8), request)
    assert batch.images.shape == (2, 1, 1, 8, 8, 1)
    np.testing.assert_array_equal(batch.images[1], restore(PRIOR, pictures(2, 4, 8)[1], request).images)
    with pytest.raises(InputError, match=r"a batch of shape \(0, 8, 8, 1\) holds no images"):
        restore(PRIOR, pictures(0, 8, 8, 1), DENOISE)


def test_inside_a_transformation_one_line_names_what_to_call():
    x = pictures(2, 8, 8, 1)
    calls = [
        lambda: jax.jit(lambda x: restore(PRIOR, x, DENOISE).images)(x[0]),
        lambda: jax.vmap(lambda x: restore(PRIOR, x, DENOISE).images)(x),
        lambda: jax.grad(lambda x: restore(PRIOR, x, DENOISE).images.sum())(x[0]),
        lambda: jax.jit(lambda: restore(PRIOR, x[0], DENOISE).images)(),
    ]
    for call in calls:
        with pytest.raises(
            InputError, match=r"fmdp.restore does not work inside jit, .*: .*call fmdp.denoise or"
        ) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"exact.Gaussian cannot be made inside jit, vmap or grad: make it outside"):
        jax.vmap(lambda variance: Gaussian(np.zeros((2, 2, 1)), variance).mmse(0.5))(jnp.ones(3))


def test_noise_levels_of_any_type_and_none():
    y = pictures(8, 8, 1)
    expected = restore(PRIOR, y, Request(degraded=True, sigma=0.25)).images
    for sigma in (jnp.float32(0.25), np.float64(0.25), jnp.bfloat16(0.25)):
        np.testing.assert_array_equal(restore(PRIOR, y, Request(degraded=True, sigma=sigma)).images, expected)
    for sigma in (0.0, 1e-9):
        clear = restore(PRIOR, y, Request(degraded=True, sigma=sigma, lookaheads=(0.0, 1.0)))
        np.testing.assert_allclose(clear.images, np.broadcast_to(y, (2, 1, 8, 8, 1)), atol=1e-6)  # nothing to remove
        assert clear.facts["s"] == 1
        same = restore(
            PRIOR, y, Request(operator="decimation", parameters={"factor": 1}, degraded=False, sigma=sigma, steps=2)
        )
        np.testing.assert_allclose(same.measured, y, atol=1e-7)
        assert np.isfinite(same.images).all()
    with pytest.raises(
        InputError, match=r"Request.sigma=-0.5.: must be positive, .*, or 0; for a map, use fmdp.solvers"
    ):
        Request(degraded=True, sigma=-0.5)


def test_a_kernel_that_changes_the_brightness_is_said():
    kernel = np.full((3, 3), 0.5)
    request = Request(operator="motion_blur", parameters={"kernel": kernel}, degraded=True, steps=2, gain=0.05)
    noted = restore(PRIOR, pictures(8, 8, 1), request).notes
    assert noted[0].parameter == "parameters"
    assert noted[0].text.startswith("the kernel sums to 4.5, not to 1")
    request = Request(operator="motion_blur", parameters={"psf": kernel, "normalize": True}, degraded=True, steps=2)
    assert not restore(PRIOR, pictures(8, 8, 1), request).notes
