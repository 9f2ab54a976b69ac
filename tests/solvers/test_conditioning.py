"""The units of a measurement change nothing, and linear systems of every condition are solved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fmdp import operators
from fmdp.exact import Gaussian
from fmdp.operators.noise import GaussianNoise, Observation, observe
from fmdp.solvers import make
from fmdp.solvers.base import back_projection, covariance_solver

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("cheap_compilation")]

KEY = jax.random.key(0)
SHAPE, SIZE = (16, 16, 1), 256
TARGET = Gaussian(jnp.zeros(SHAPE), 0.25)
BLUR = operators.make("gaussian_blur", SHAPE, kernel_size=9, std=1.5)
SAME = operators.make("denoising", SHAPE)


def matrix(operator):
    return np.asarray(jax.vmap(operator)(jnp.eye(SIZE).reshape(SIZE, *SHAPE)), np.float64).reshape(SIZE, SIZE).T


def times(c, x):
    return c * BLUR(x)


def levels(low, high):
    """A map of noise levels."""
    return jnp.geomspace(low, high, SIZE).reshape(SHAPE)


@pytest.mark.parametrize("name", ["pnp", "flower", "ot_ode"])
@pytest.mark.parametrize("sigma", [0.01, levels(0.01, 1.0)], ids=["uniform", "map"])
def test_the_units_of_a_measurement_change_nothing(name, sigma):
    """(c H, c y, c sigma) is the same problem for every c > 0."""
    y = observe(BLUR, GaussianNoise(sigma=sigma), TARGET.sample(KEY, 1)[0], KEY).y
    options = dict(schedule="safe", knob="relative", lookahead=0.0) if name == "pnp" else {}

    @jax.jit
    def restore(observation):
        return make(name, steps=10, **options)(TARGET.average_field, observation, KEY)[0]

    def scaled(c):
        operator = operators.from_function(Partial(times, c), SHAPE, linear=True)
        return Observation(y=c * y, operator=operator, noise=GaussianNoise(sigma=c * sigma))

    expected = restore(scaled(1.0))
    for c in (1e-4, 1e3):
        np.testing.assert_allclose(restore(scaled(c)), expected, atol=1e-4, err_msg=str(c))


@pytest.mark.parametrize(
    ("operator", "low", "high"),
    [(SAME, 0.05, 100.0), (BLUR, 0.05, 100.0), (BLUR, 0.01, 1000.0), (SAME, 1e-12, 0.5)],
    ids=["same", "blur", "wide", "without_noise"],
)
def test_the_posterior_under_a_map_of_noise_levels(operator, low, high):
    """Against a direct solve, from the most precise to nearly useless entries."""
    sigma, nu2 = levels(low, high), 0.5
    observation = observe(operator, GaussianNoise(sigma=sigma), TARGET.sample(KEY, 1)[0], KEY)
    r = jax.jit(lambda: covariance_solver(observation)(nu2, observation.y))()
    H, y = matrix(operator), np.ravel(observation.y).astype(float)
    exact = nu2 * H.T @ np.linalg.solve(nu2 * H @ H.T + np.diag(np.ravel(sigma).astype(float) ** 2), y)
    np.testing.assert_allclose(np.ravel(nu2 * operators.adjoint(operator, r)), exact, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 0.0, levels(0.01, 1.0)], ids=["some", "much", "none", "map"])
@pytest.mark.parametrize("size", [1e3, 1e4])
def test_a_proximal_step_of_any_size_is_the_minimiser(size, sigma):
    """Against a direct solve; 1 / (2 sigma^2), the size that fits noise of .01, is 5,000."""
    observation = observe(BLUR, GaussianNoise(sigma=sigma), TARGET.sample(KEY, 1)[0], KEY).in_type(jnp.float32)
    options = dict(steps=1, times=jnp.ones(1), exponent=0.0, data_step="proximal")  # D_{1,1} is the identity
    x = jax.jit(lambda gain: make("pnp", gain=gain, **options)(TARGET.average_field, observation, KEY)[0])(size)
    H, y = matrix(BLUR), np.ravel(observation.y).astype(float)
    precision = np.broadcast_to((np.min(sigma) or 1) / np.where(sigma, sigma, 1), SHAPE).ravel().astype(float) ** 2
    normal, pulled = np.eye(SIZE) + 2 * size * H.T * precision @ H, 2 * size * H.T @ (precision * y)
    exact = np.linalg.solve(normal, pulled)
    np.testing.assert_allclose(np.ravel(x), exact, atol=5e-4 * np.abs(exact).max())


@pytest.mark.parametrize("operator", [BLUR, operators.make("hdr", SHAPE, scale=100.0)], ids=["linear", "nonlinear"])
def test_the_start_of_a_solve_is_that_of_a_whitened_operator_of_norm_1(operator):
    sigma = levels(0.01, 1000.0)
    y = observe(operator, GaussianNoise(sigma=sigma), TARGET.sample(KEY, 1)[0], KEY).y
    H = matrix(BLUR) if operator is BLUR else 100 * np.eye(SIZE)  # the derivative at 0
    white = H / np.ravel(sigma).astype(float)[:, None]
    expected = white.T @ (np.ravel(y / sigma)) / np.linalg.norm(white, 2) ** 2
    at = None if operator.linear else jnp.zeros(SHAPE)
    found = jax.jit(
        lambda: back_projection(Observation(y=y, operator=operator, noise=GaussianNoise(sigma=sigma)), at)
    )()
    np.testing.assert_allclose(np.ravel(found), expected, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("name", ["ot_ode", "d_flow"])
def test_useless_entries_of_a_measurement_do_no_harm(name):
    """What they show stays within the prior: the start used to hold their noise, 100 times the range of the image."""
    observation = observe(SAME, GaussianNoise(sigma=levels(0.05, 100.0)), TARGET.sample(KEY, 1)[0], KEY)
    options = dict(steps=10, points=3) if name == "d_flow" else dict(steps=30)
    x, _ = jax.jit(lambda: make(name, **options)(TARGET.average_field, observation, KEY))()
    useless = np.asarray(observation.noise.sigma > 10)
    assert np.sqrt(np.mean(np.square(x[useless]))) < 1.2 * 0.5  # standard deviations of the prior
