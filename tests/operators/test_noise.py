import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from fmdp import operators
from fmdp.errors import InputError
from fmdp.operators.noise import DARK, GaussianNoise, LaplaceNoise, Observation, PoissonNoise, observe

pytestmark = pytest.mark.device

KEY = jax.random.key(0)
SHAPE = (5, 4, 1)
LEVELS = np.array([-0.9, -0.3, 0.0, 0.8])
NOISES = dict(gaussian=GaussianNoise(sigma=0.3), laplace=LaplaceNoise(scale=0.2), poisson=PoissonNoise(peak=20.0))
LAWS = dict(
    gaussian=scipy.stats.norm(LEVELS, 0.3),
    laplace=scipy.stats.laplace(LEVELS, 0.2),
    poisson=scipy.stats.poisson(20 * (LEVELS + 1) / 2),
)


def support(name, y):
    """What scipy calls the outcome y: a number of photons for Poisson."""
    return np.rint(20 * (y + 1) / 2) if name == "poisson" else y


def picture(shape, seed=1):
    return jnp.asarray(np.tanh(np.random.default_rng(seed).normal(size=shape)), float)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISES)
def test_likelihood_is_that_of_the_draws(x64, name):
    noise, law = NOISES[name], LAWS[name]
    clean = jnp.asarray(np.tile(LEVELS, (20_000, 1)))
    y = np.asarray(noise.draw(clean, KEY))
    each = jax.vmap(jax.vmap(noise.negative_log_likelihood))(clean, y)
    outcome = support(name, y)
    np.testing.assert_allclose(each, -(law.logpmf if name == "poisson" else law.logpdf)(outcome), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(each.mean(0), law.entropy(), atol=0.03)
    np.testing.assert_allclose(y.mean(0), LEVELS, atol=0.01)
    np.testing.assert_allclose(outcome.var(0), law.var(), rtol=0.05)
    if name == "poisson":
        np.testing.assert_allclose(20 * (y + 1) / 2, outcome, atol=1e-9)
    grey = np.flatnonzero(LEVELS == 0)[0]
    np.testing.assert_allclose(y[:, grey].var(), noise.variance, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISES)
def test_gradients_also_at_zero_and_dark_pixels(x64, name):
    H = operators.make("gaussian_blur", SHAPE, kernel_size=3, std=1.0)
    y = NOISES[name].draw(0.5 * picture(SHAPE), KEY)
    observation = Observation(y=y, operator=H, noise=NOISES[name])
    for x in (jnp.zeros(SHAPE), -jnp.ones(SHAPE), -1.2 * jnp.ones(SHAPE), picture(SHAPE)):
        check_grads(jax.jit(observation.negative_log_likelihood), (x,), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("peak", [5.0, 20.0, 1000.0])
def test_poisson_at_dark_pixels(x64, peak):
    """Neither dead nor explosive where the rate vanishes, smooth where the continuation begins, convex throughout."""
    noise, floor = PoissonNoise(peak=peak), max(1.0, DARK * peak)
    rates = floor * np.linspace(-2, 3, 5001)

    def score(rate, k):
        return noise.negative_log_likelihood(2 * rate / peak - 1, 2 * k / peak - 1)

    for k in (0.0, 1.0, 2 * floor):
        values, slopes = (jax.vmap(f, (0, None))(rates, jnp.asarray(k)) for f in (score, jax.grad(score)))
        curvature = np.diff(slopes) / np.diff(rates)
        assert (curvature > -1e-9).all()
        assert curvature.max() < max(1, k / floor) / floor + 1e-6  # no jump of the slope at the floor either
        np.testing.assert_allclose(np.gradient(values, rates)[1:-1], slopes[1:-1], atol=0.01)
        np.testing.assert_allclose(rates[np.argmin(values)], k, atol=0.002 * floor)
        exact = rates >= floor
        np.testing.assert_allclose(values[exact], -scipy.stats.poisson(rates[exact]).logpmf(k), rtol=1e-9)


def test_poisson_is_finite_for_measurements_below_no_count(x64):
    """Up to a constant it is rate - k log rate there, too, as a line search needs it."""
    noise, k, rates = PoissonNoise(peak=20.0), np.array([-1.0, -2.0, -5.0]), np.array([3.0, 15.0])
    values = [noise.negative_log_likelihood(jnp.full(3, rate / 10 - 1), jnp.asarray(k / 10 - 1)) for rate in rates]
    np.testing.assert_allclose(values[1] - values[0], np.sum(rates[1] - rates[0] - k * np.log(5)), rtol=1e-12)


@pytest.mark.slow
def test_energy_is_the_square_or_its_like_at_mid_grey(x64):
    x = 0.05 * picture(SHAPE)
    H = operators.make("denoising", SHAPE)
    y = x + 0.05 * picture(SHAPE, 2)
    square = jax.grad(lambda x: jnp.sum((y - x) ** 2))(x)
    by_noise = {
        name: jax.grad(Observation(y=y, operator=H, noise=noise).energy)(x)
        for name, noise in dict(NOISES, bright=PoissonNoise(peak=1e4)).items()
    }
    np.testing.assert_allclose(by_noise["gaussian"], square, rtol=1e-9)
    for name in ("poisson", "bright"):
        np.testing.assert_allclose(by_noise[name], square, rtol=0.15)
    np.testing.assert_allclose(by_noise["laplace"], 4 * 0.2 * np.sign(x - y), rtol=1e-9)


@pytest.mark.slow
def test_measured_with_the_operator_scored_with_its_surrogate():
    x = picture((16, 16, 3))
    H = operators.make("jpeg", x.shape, quality=10)
    observation = observe(H, GaussianNoise(sigma=1e-3), x, KEY)

    @jax.jit
    def score(x):
        soft = jnp.sum(jnp.square(observation.y - H.surrogate(x)))
        return observation.energy(x) - soft, H(x), observation.residual(x), jax.grad(observation.energy)(x)

    constant, hard, residual, slope = score(x)
    np.testing.assert_allclose(observation.y, hard, atol=6e-3)
    assert residual < 2e-3
    assert jnp.abs(slope).max() > 0
    np.testing.assert_allclose(score(0.9 * x)[0], constant, atol=1e-3)


@pytest.mark.slow
def test_a_batch_has_its_own_operators_and_noise_levels():
    keys, x = jax.random.split(KEY, 3), picture((3, 8, 8, 1))
    sigma = jnp.asarray([0.01, 0.1, 1.0])

    def measure(key, x, sigma):
        operator_key, noise_key = jax.random.split(key)
        H = operators.make("random_inpainting", x.shape, operator_key, ratio=0.5)
        return observe(H, GaussianNoise(sigma=sigma), x, noise_key)

    many = jax.jit(jax.vmap(measure))(keys, x, sigma)
    assert many.y.shape == x.shape
    scores = jax.vmap(lambda observation, x: observation.negative_log_likelihood(x))(many, x)
    for i in range(3):
        one = measure(keys[i], x[i], sigma[i])
        np.testing.assert_allclose(many.y[i], one.y, atol=1e-6)
        np.testing.assert_allclose(scores[i], one.negative_log_likelihood(x[i]), rtol=1e-5)
    assert (measure(keys[0], x[0], 0.1).y != measure(keys[1], x[0], 0.1).y).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(sigma=-1e-9), "GaussianNoise: sigma=-1e-09: pass a number that is at least 0"),
        (lambda: GaussianNoise(sigma=float("nan")), "sigma=nan: pass a finite number"),
        (lambda: GaussianNoise(sigma=jnp.array([0.1, -0.2])), "sigma=-0.2.*: pass a number that is at least 0"),
        (lambda: LaplaceNoise(scale=-1.0), "LaplaceNoise: scale=-1.0: pass a number above 0"),
        (lambda: PoissonNoise(peak=0), "PoissonNoise: peak=0: pass a number above 0"),
        (lambda: PoissonNoise(peak="x"), "PoissonNoise: peak='x': pass a finite number"),
    ],
)
def test_bad_noise_is_one_clear_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert isinstance(error.value, InputError)
    assert "\n" not in str(error.value)


def test_a_measurement_of_another_shape():
    H = operators.make("decimation", (8, 8, 3), factor=2)
    with pytest.raises(InputError, match=r"y has shape \(8, 8, 3\) but decimation .* measures \(4, 4, 3\)"):
        Observation(y=jnp.zeros((8, 8, 3)), operator=H, noise=NOISES["gaussian"]).check_shape()
