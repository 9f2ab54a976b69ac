"""Plug-and-play and DPS against the published loops, written down in numpy at float64, on every task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import operators
from fmdp.exact import Gaussian
from fmdp.operators.noise import GaussianNoise, observe
from fmdp.solvers import dps, pnp

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("cheap_compilation")]

SHAPE = (8, 8, 3)
SIZE, STEPS, SIGMA = 192, 20, 0.05
RNG = np.random.default_rng(0)
MEAN, SPREAD = 0.3 * RNG.normal(size=SIZE), RNG.uniform(0.2, 0.6, SIZE)  # of independent pixels
TARGET = Gaussian(MEAN.reshape(SHAPE), SPREAD.reshape(SHAPE) ** 2)
ROUNDING = 2e-6 if jax.default_backend() == "cpu" else 2e-5
TASKS = {
    "denoising": {},
    "box_inpainting": dict(size=3),
    "random_inpainting": dict(ratio=0.7),
    "brush_inpainting": {},
    "gaussian_blur": dict(kernel_size=5, std=1.5),
    "motion_blur": dict(kernel_size=5),
    "super_resolution": dict(factor=2),
    "decimation": dict(factor=2),
    "colorization": {},
}


@pytest.fixture(params=TASKS)
def task(request):
    """An observation, and its operator as a matrix."""
    operator = operators.make(request.param, SHAPE, jax.random.key(1), **TASKS[request.param])
    columns = jax.vmap(operator)(jnp.eye(SIZE).reshape(-1, *SHAPE)).reshape(SIZE, -1)
    clean = TARGET.sample(jax.random.key(2), 1)[0]
    return observe(operator, GaussianNoise(sigma=SIGMA), clean, jax.random.key(3)), np.asarray(columns, np.float64).T


def denoised(x, s, t):
    """D_{s,t}(x) by the closed form for a Gaussian, and its derivative, of which every pixel has its own."""
    q_s, q_t = ((1 - u) ** 2 + u**2 * SPREAD**2 for u in (s, t))
    velocity = (t * SPREAD**2 - (1 - t)) / q_t if s == t else (np.sqrt(q_t / q_s) - 1) / (t - s)
    gain = 1 + (1 - s) * velocity
    return MEAN + gain * (x - s * MEAN), gain


@pytest.mark.parametrize("lookahead", [0.0, 0.3, 1.0])
def test_pnp_is_the_published_loop(task, lookahead):
    observation, H = task
    y, noise = np.ravel(observation.y).astype(np.float64), np.random.default_rng(4).normal(size=(STEPS, *SHAPE))
    x = np.zeros(SIZE)
    for i in range(STEPS):
        s = i / STEPS
        t = min(s + lookahead, 1)
        z = x - (1 - s) ** 0.05 * 2 * H.T @ (H @ x - y)
        x, _ = denoised(s * z + (1 - s) * noise[i].ravel(), s, t)

    @jax.jit
    def run(noise):
        options = dict(steps=STEPS, lookahead=lookahead, noise=noise)
        return pnp.solve(TARGET.average_field, observation, jax.random.key(0), **options)[0]

    np.testing.assert_allclose(np.ravel(run(jnp.asarray(noise, jnp.float32))), x, atol=ROUNDING)


def test_dps_is_the_published_loop(task):
    observation, H = task
    y, start = np.ravel(observation.y).astype(np.float64), np.random.default_rng(5).normal(size=SHAPE)
    x = start.ravel()
    for i in range(STEPS):
        t = i / STEPS
        m, gain = denoised(x, t, t)
        misfit = y - H @ m
        x = x + ((m - x) / (1 - t) + gain * (H.T @ misfit) / np.sqrt(misfit @ misfit)) / STEPS

    @jax.jit
    def run(noise):
        options = dict(steps=STEPS, eta=1.0, noise=noise)
        return dps.solve(TARGET.average_field, observation, jax.random.key(0), **options)[0]

    np.testing.assert_allclose(np.ravel(run(jnp.asarray(start, jnp.float32))), x, atol=ROUNDING)
