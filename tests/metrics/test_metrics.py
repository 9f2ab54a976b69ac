import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features

pytestmark = pytest.mark.device

KEY = jax.random.key(0)


def normal(index, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, index), shape)


def test_mse_and_psnr_are_per_image():
    clean = normal(0, 3, 8, 8, 1)
    off = jnp.array([0.1, 0.2, 0.4])
    restored = clean + off[:, None, None, None]
    np.testing.assert_allclose(distortion.mse(restored, clean), off**2, rtol=1e-5)
    np.testing.assert_allclose(distortion.psnr(restored, clean), 20 * np.log10(2 / off), rtol=1e-5)


def test_psnr_of_clipped_images_is_not_rounded():
    clean = np.ones((4, 4, 1), np.float32)
    assert distortion.clipped_psnr(clean + 0.3, clean) == pytest.approx(126.02, abs=0.01)  # for equal pictures, a bound
    assert distortion.clipped_psnr(clean - 0.001, clean) == pytest.approx(20 * np.log10(2 / 0.001), abs=1e-3)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8, 3)).astype(np.float32)
    found = distortion.clipped_psnr(images, images[0, 0])
    np.testing.assert_allclose(found, distortion.psnr(jnp.asarray(images), jnp.asarray(images[0, 0])), rtol=1e-4)


@pytest.mark.slow
def test_ssim_is_one_for_the_same_image_and_falls_with_noise():
    clean = jnp.clip(normal(0, 2, 3, 16, 16, 3), -1, 1)
    scores = [distortion.ssim(clean + sigma * normal(1, *clean.shape), clean) for sigma in (0.0, 0.1, 0.5)]
    assert scores[0].shape == (2, 3)
    np.testing.assert_allclose(scores[0], 1, rtol=1e-5)
    assert jnp.all(scores[0] > scores[1])
    assert jnp.all(scores[1] > scores[2])
    assert distortion.ssim(clean[..., :8, :8, :], clean[..., :8, :8, :]).shape == (2, 3)


@pytest.mark.slow
def test_kernel_distance_equals_its_double_sum():
    x, y, width = normal(0, 6, 3), normal(1, 5, 3) + 0.5, jnp.asarray(1.3)

    def k(a, b):
        return np.mean([np.exp(-np.sum((a - b) ** 2) / (2 * (c * width) ** 2)) for c in perception.WIDTHS])

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    np.testing.assert_allclose(perception.kernel_distance(x, y, width), xx + yy - 2 * xy, atol=1e-6)


@pytest.mark.slow
def test_kernel_distance_is_unbiased():
    values = [
        perception.kernel_distance(normal(2 * i, 20, 2), normal(2 * i + 1, 30, 2), jnp.asarray(1.0)) for i in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_frechet_distance_against_scipy():
    x, y = normal(0, 50, 4) @ normal(2, 4, 4), normal(1, 60, 4) + 1
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    np.testing.assert_allclose(perception.frechet_distance(x, y), expected, rtol=1e-4)


def test_variance_ratio_of_a_shrunk_set():
    x = normal(0, 100, 5)
    assert perception.variance_ratio(0.5 * x + 3, x) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.slow
def test_floor_holds_real_against_real_and_not_a_blurred_set():
    real = normal(0, 400, 6)
    width = perception.median_distance(real)

    def distance(x, y):
        return perception.kernel_distance(x, y, width)

    floor = perception.null_interval(distance, jax.random.key(1), real, np.zeros(400), 100, 100)
    assert floor.low < floor.mean < floor.high
    pairs = [(normal(2 * i, 100, 6), normal(2 * i + 1, 300, 6)) for i in range(1, 41)]
    inside = [floor.low < distance(x, y) < floor.high for x, y in pairs]
    assert sum(inside) >= 34
    assert distance(0.5 * normal(1, 100, 6), real) > floor.high


def test_features_are_pixels_or_their_averages():
    small = normal(0, 2, 8, 8, 1)
    np.testing.assert_array_equal(features(small), small.reshape(2, 64))
    flat = jnp.broadcast_to(jnp.array([0.1, -0.4, 0.7]), (2, 32, 20, 3))
    assert features(flat).shape == (2, 8 * 8 * 3)
    np.testing.assert_allclose(features(flat).reshape(2, 64, 3), flat[:, :8, :8].reshape(2, 64, 3), rtol=1e-5)


def test_floor_deals_within_strata():
    strata = np.tile([0, 1], 20)
    real = jnp.asarray(100.0 * strata[:, None] + np.arange(40)[:, None])

    def unbalance(x, y):
        return jnp.abs(jnp.mean(x > 90) - 0.5) + 0 * jnp.sum(y)

    floor = perception.null_interval(unbalance, jax.random.key(0), real, strata, 10, 20)
    assert max(abs(floor.low), abs(floor.high)) < 1e-6
    mixed = perception.null_interval(unbalance, jax.random.key(0), real, np.zeros(40), 10, 20)
    assert mixed.high > 0.05
    spread = perception.null_interval(lambda x, y: jnp.mean(x), jax.random.key(0), real, strata, 10, 20)
    assert spread.high > spread.low
