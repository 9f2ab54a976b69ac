from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.exact import Gaussian
from fmdp.flow import posterior_sampling
from fmdp.flow.average_field import denoise

pytestmark = pytest.mark.device

SHAPE = (1, 3, 1)
LAM = np.array([0.01, 0.2, 1.0])
S, COUNT = 0.4, 20_000


@pytest.fixture
def target():
    return Gaussian(np.full(SHAPE, 0.3), LAM.reshape(SHAPE))


@pytest.fixture
def point():
    """One noisy image, many times over: the estimates' spread is the posterior's."""
    return jnp.broadcast_to(jnp.array([1.0, -0.5, 0.8]).reshape(SHAPE), (COUNT, *SHAPE))


def posterior(target, x):
    """Mean and variance of x1 given x_s = x, by completing the square."""
    precision = 1 / LAM + S**2 / (1 - S) ** 2
    mean = (np.ravel(target.mean) / LAM + S * np.ravel(x) / (1 - S) ** 2) / precision
    return mean, 1 / precision


def moments(x):
    flat = np.asarray(x).reshape(len(x), -1)
    return flat.mean(0), flat.var(0)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_scaled_diffusion_has_the_posterior_mean_and_a_scaled_variance(target, point, scale):
    draw = jax.jit(partial(posterior_sampling.scaled_diffusion, target.average_field, s=S, steps=300))
    x, evaluations = draw(point, key=jax.random.key(0), scale=scale)
    mean, variance = moments(x)
    expected_mean, expected = posterior(target, point[0])
    assert evaluations == 300
    np.testing.assert_allclose(mean, expected_mean, atol=0.02)
    np.testing.assert_allclose(variance, scale**2 * expected, rtol=0.05, atol=1e-7)


@pytest.mark.slow
def test_discretisation_is_of_first_order_and_narrow(x64, target, point):
    """The variance is a deterministic function of the steps: propagate it, for every eigenvalue, without sampling."""

    def variance(steps):
        times = 1 - (1 - S) * np.linspace(1, 0, steps + 1) ** 2
        total = np.zeros(3)
        for t, u in pairwise(times):
            gain = np.asarray(target.gain(float(t), float(t)))
            rest = dict(left=jnp.asarray(1 - t), left_after=jnp.asarray(1 - u))
            pull, spread = posterior_sampling.bridge(jnp.zeros(SHAPE), jnp.ones(SHAPE), **rest)
            keep, _ = posterior_sampling.bridge(jnp.ones(SHAPE), jnp.zeros(SHAPE), **rest)
            total = (np.ravel(keep) + np.ravel(pull) * gain) ** 2 * total + np.ravel(spread) ** 2
        return total

    _, expected = posterior(target, point[0])
    coarse, fine = (1 - variance(steps) / expected for steps in (50, 100))
    assert np.all(fine > 0)
    np.testing.assert_allclose(coarse / fine, 2, atol=0.25)
    assert fine.max() < 0.08  # as the module says


def test_bridge_is_the_posterior_of_the_noising_process(x64):
    """x_u and x_t given x1 are jointly Gaussian with covariance (t / u) (1 - u)^2."""
    t, u, x, clean = 0.3, 0.7, jnp.full(SHAPE, 0.9), jnp.full(SHAPE, -0.4)
    mean, spread = posterior_sampling.bridge(x, clean, left=jnp.asarray(1 - t), left_after=jnp.asarray(1 - u))
    slope = (t / u) * (1 - u) ** 2 / (1 - t) ** 2
    np.testing.assert_allclose(mean, u * clean + slope * (x - t * clean))
    np.testing.assert_allclose(spread**2, (1 - u) ** 2 - slope**2 * (1 - t) ** 2)
    last, none = posterior_sampling.bridge(x, clean, left=jnp.asarray(1 - t), left_after=jnp.asarray(0.0))
    np.testing.assert_allclose(last, clean)
    assert float(none) == 0


@pytest.mark.parametrize(("s", "steps"), [(0.9999, 100), (0.98, 1000), (1 - 2**-24, 3), (1 - 1e-9, 3)])
def test_little_noise_in_many_steps_leaves_the_image(target, s, steps):
    """The times of the last steps round to 1."""
    x = target.sample(jax.random.key(0), 50)
    draw = jax.jit(partial(posterior_sampling.posterior_sample, target.average_field, s=s, steps=steps))
    out, _ = draw(s * x, key=jax.random.key(1))
    assert 0 < float(jnp.std(out - s * x)) < 2 * max(1 - s, 2**-24)


@pytest.mark.slow
def test_errors_of_the_rivals_are_the_known_multiples_of_the_mmse(target):
    x1 = target.sample(jax.random.key(0), COUNT)
    x = S * x1 + (1 - S) * jax.random.normal(jax.random.key(1), x1.shape)
    field, key, mmse = target.average_field, jax.random.key(2), float(target.mmse(S))

    def relative(estimate):
        return float(jnp.mean((estimate - x1) ** 2)) / mmse

    samples = jax.jit(posterior_sampling.posterior_samples)(field, x, S, jax.random.split(key, 4))
    cases = {
        "posterior": (samples[0], 2.0),
        "mean": (posterior_sampling.mean_of_samples(samples), 1.25),
        "blend": (posterior_sampling.blend(denoise(field, x, S, S), samples[0], 0.5), 1.25),
    }
    for name, (estimate, factor) in cases.items():
        assert relative(estimate) == pytest.approx(factor, rel=0.04), name


@pytest.mark.slow
def test_samples_mean_and_blend_are_those_of_their_keys(target):
    x, keys, field = jnp.ones((5, *SHAPE)), jax.random.split(jax.random.key(3), 3), target.average_field
    draw = jax.jit(lambda key: posterior_sampling.posterior_sample(field, x, S, key, steps=10))
    first, evaluations = draw(keys[0])
    assert evaluations == 10
    samples = posterior_sampling.posterior_samples(field, x, S, keys, 10)
    mean = posterior_sampling.mean_of_samples(samples)
    np.testing.assert_allclose(mean, sum(draw(key)[0] for key in keys) / 3, atol=1e-5)
    estimate = denoise(field, x, S, S)
    mixed = posterior_sampling.blend(estimate, samples[0], 0.25)
    np.testing.assert_allclose(mixed, 0.75 * estimate + 0.25 * first, atol=1e-5)


@pytest.mark.slow
def test_starts_from_pure_noise_and_at_each_images_own_time(target):
    s = jnp.repeat(jnp.array([0.0, 0.9]), 4000)
    x = jnp.ones((8000, *SHAPE))
    out, _ = jax.jit(
        lambda x: posterior_sampling.posterior_sample(target.average_field, x, s, jax.random.key(0), steps=200)
    )(x)
    noise, near = np.asarray(out[:4000]), np.asarray(out[4000:])
    np.testing.assert_allclose(noise.reshape(-1, 3).mean(0), np.ravel(target.mean), atol=0.06)
    np.testing.assert_allclose(noise.reshape(-1, 3).var(0), LAM, rtol=0.15)
    assert near.reshape(-1, 3).std(0).max() < 0.2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda run: run(s=0.5, steps=0), "steps=0: pass a number that is at least 1"),
        (lambda run: run(s=0.5, scale=1.5), "scale=1.5: pass a number from 0 to 1"),
        (lambda run: run(s=1.0), "s=1.0: pass a number that is at least 0 and below 1"),
        (lambda run: run(s=-0.2), "s=-0.2"),
    ],
)
def test_bad_input(target, act, message):
    with pytest.raises(ValueError, match=message):
        act(partial(posterior_sampling.scaled_diffusion, target.average_field, jnp.zeros(SHAPE), key=jax.random.key(0)))


def test_mean_of_no_samples_is_an_error():
    with pytest.raises(ValueError, match="mean of 0 samples"):
        posterior_sampling.mean_of_samples(jnp.zeros((0, *SHAPE)))
