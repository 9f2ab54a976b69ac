"""How far results at JAX's default precision are from those in float32, as docs/devices.md states it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmdp
from fmdp import data
from fmdp.flow.average_field import lookahead_time
from tests.support.precision import FRACTION_BITS, factor_error, with_rounded_factors

pytestmark = [pytest.mark.device, pytest.mark.slow]

S = 0.8
TIMES = lookahead_time(S, jnp.repeat(jnp.array([0.0, 0.5, 1.0]), 8))


def product(x, kernel):
    return x.reshape(-1, 32) @ kernel.reshape(-1, 32).T


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def in_float64(function, x, kernel):
    """The same by numpy."""
    if function is product:
        return x.reshape(-1, 32).astype(np.float64) @ kernel.reshape(-1, 32).T
    patches = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), (1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", patches, kernel)


@pytest.mark.parametrize("function", [product, convolution])
@pytest.mark.parametrize("precision", ["default", "highest"])
def test_a_product_is_as_exact_as_its_factors(function, precision):
    """Each factor has its rounding error, and the sum of n products that of float32, relative to all magnitudes."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 12, 12, 32), (3, 3, 32, 32)))
    with jax.default_matmul_precision(precision):
        found = np.asarray(jax.jit(function)(x, kernel))
    size, n = in_float64(function, np.abs(x), np.abs(kernel)), 32 if function is product else 9 * 32
    bound = n * 2.0**-24 + (2 * factor_error() if precision == "default" else 0)
    assert np.all(np.abs(found - in_float64(function, x, kernel)) <= bound * size)


@functools.cache
def noisy_digits():
    """Clean and noisy images of the size of the prior, the same eight for each lookahead."""
    clean = np.pad(data.digits()[0][:8].repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1)
    clean = jnp.asarray(np.tile(clean, (3, 1, 1, 1)))
    return clean, S * clean + (1 - S) * jax.random.normal(jax.random.key(0), clean.shape)


def denoised(prior, x):
    """The field and the estimate of each image, at the lookahead of each."""
    return prior(x, S, TIMES), fmdp.denoise(prior, x, S, TIMES)


def deviation(found, expected):
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def psnr(estimates, clean):
    """Means over the images of each lookahead."""
    return 10 * np.log10(4 / np.square(estimates - clean).mean((1, 2, 3))).reshape(3, -1).mean(1)


@pytest.fixture(scope="module")
def exact():
    """The prior, and its field and estimates in float32."""
    prior = fmdp.load("fashion_mnist")
    with jax.default_matmul_precision("highest"):
        return prior, *jax.jit(denoised)(prior, noisy_digits()[1])


def test_the_field_at_the_default_precision(exact):
    prior, field, _ = exact
    with jax.default_matmul_precision("default"):
        found, _ = jax.jit(denoised)(prior, noisy_digits()[1])
    assert deviation(found, field) <= 2 * factor_error()  # twice what the next test finds: factors may be cut off


@pytest.mark.parametrize(("backend", "decibels"), [("gpu", 0.002), ("tpu", 0.02)])
def test_the_field_and_the_error_with_the_factors_of_another_backend(exact, backend, decibels):
    prior, field, estimates = exact
    clean, x = noisy_digits()
    with jax.default_matmul_precision("highest"):
        found, rounded = jax.jit(with_rounded_factors(denoised, FRACTION_BITS[backend]))(prior, x)
    assert 0.1 * factor_error(backend) < deviation(found, field) < factor_error(backend)
    np.testing.assert_allclose(psnr(rounded, clean), psnr(estimates, clean), atol=decibels)
