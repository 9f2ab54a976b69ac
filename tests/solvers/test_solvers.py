"""Solvers against closed forms, independent loops, and the stored trajectories. See test_pnp.py for plug-and-play."""

import time
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from fmdp import operators, solvers
from fmdp.errors import InputError
from fmdp.exact import Gaussian, fixed_point, stationary_covariance
from fmdp.operators.noise import GaussianNoise, LaplaceNoise, Observation, PoissonNoise, observe
from fmdp.solvers import (
    SOLVERS,
    DivergenceError,
    d_flow,
    dps,
    flow_priors,
    flower,
    ot_ode,
    pnp,
    pnp_flow,
    raise_if_diverged,
)

pytestmark = pytest.mark.device

KEY = jax.random.key(0)
SHAPE = (4, 3, 1)
SIZE = 12
MEAN = 0.3 * np.random.default_rng(0).normal(size=SHAPE)
WHITE = Gaussian(MEAN, 1.0)  # the spreads that ot_ode and flower assume are exact for it
SIGMA = 0.5


def covariance(seed=0):
    root = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    return root @ root.T / SIZE


COLOURED = Gaussian(MEAN, covariance())


def matrix(function):
    """The matrix of a linear function of images of SHAPE."""
    basis = jnp.asarray(np.eye(SIZE).reshape(-1, *SHAPE), float)
    return np.asarray(jax.vmap(lambda x: function(x).ravel(), out_axes=1)(basis), np.float64)


@cache
def blurred(target=WHITE, sigma=SIGMA):
    """An observation of one image of the target, and the matrix of its operator, which commutes with nothing."""
    H = operators.make("motion_blur", SHAPE, kernel=np.array([[0.1, 0.2, 0.0], [0.3, 0.3, 0.0], [0.1, 0.0, 0.0]]))
    return observe(H, GaussianNoise(sigma=sigma), target.sample(KEY, 1)[0], jax.random.key(1)), matrix(H)


def posterior(target, H, y, sigma=SIGMA):
    """Mean [n] and covariance [n, n] of x1 given y, by the textbook."""
    prior = target.basis * target.eigenvalues @ target.basis.T if target.basis is not None else np.eye(SIZE)
    gain = prior @ H.T @ np.linalg.inv(H @ prior @ H.T + sigma**2 * np.eye(len(H)))
    mean = np.ravel(target.mean)
    return mean + gain @ (np.ravel(y) - H @ mean), prior - gain @ H @ prior


def draw(run, n):
    """The images [n, SIZE] that n keys lead to."""
    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, n)), np.float64).reshape(n, -1)


# What each solver does to a Gaussian prior.


@pytest.mark.slow
def test_ot_ode_draws_from_the_posterior():
    """With weight 1 its equation is that of the posterior's own flow where r^2 is the spread of x1: for Sigma = I."""
    observation, H = blurred()

    @jax.jit
    def end(noise):
        options = dict(steps=400, start=0.01, adaptive=False, noise=noise)
        return ot_ode.solve(WHITE.average_field, observation, KEY, **options)[0]

    mean, spread = posterior(WHITE, H, observation.y)
    centre = end(jnp.zeros(SHAPE))
    np.testing.assert_allclose(np.ravel(centre), mean, atol=0.02)
    lift = matrix(jax.jit(lambda noise: end(noise) - centre))  # the end point is affine in the noise
    np.testing.assert_allclose(lift @ lift.T, spread, atol=0.02)


@pytest.mark.parametrize("sigma", [0.3, 0.05, 0.01, 0.001])
def test_ot_ode_solves_its_linear_systems_at_every_noise_level(sigma):
    """Against the same steps in numpy with a direct solve; the blur makes them badly conditioned."""
    shape, steps, start, lam, mean = (16, 16, 1), 8, 0.2, 0.25, 0.1
    target, n = Gaussian(np.full(shape, mean), lam), 256
    operator = operators.make("gaussian_blur", shape, kernel_size=7, std=1.5)
    observation = observe(operator, GaussianNoise(sigma=sigma), target.sample(KEY, 1)[0], jax.random.key(1))
    noise = jax.random.normal(jax.random.key(2), shape)
    H = np.asarray(jax.vmap(operator)(jnp.eye(n).reshape(n, *shape)), np.float64).reshape(n, n).T
    y, x = np.ravel(observation.y).astype(np.float64), np.ravel(noise).astype(np.float64)
    x = start * H.T @ y / operators.norm(operator, KEY, 30) ** 2 + (1 - start) * x
    for t in start + (1 - start) / steps * np.arange(steps):
        gain = (t * lam - (1 - t)) / ((1 - t) ** 2 + t**2 * lam)
        v, spread = mean + gain * (x - t * mean), (1 - t) ** 2 + t**2
        covariance = (1 - t) ** 2 / spread * H @ H.T + sigma**2 * np.eye(n)
        misfit = np.linalg.solve(covariance, y - H @ (x + (1 - t) * v))
        correction = (1 + (1 - t) * gain) * H.T @ misfit
        x = x + (1 - start) / steps * (v + np.sqrt(t / spread) * (1 - t) / t * correction)
    options = dict(steps=steps, start=start, noise=noise)

    @jax.jit
    def run(sigma):
        known = Observation(y=observation.y, operator=operator, noise=GaussianNoise(sigma=sigma))
        return ot_ode.solve(target.average_field, known, KEY, **options)[0]

    np.testing.assert_allclose(np.ravel(run(sigma)), x, atol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "spread"), [(1, 1.0), (8, 1.0), (8, 0.0)])
def test_flower_draws_from_the_posterior_or_settles_on_its_mean(steps, spread):
    observation, H = blurred()
    x = draw(lambda key: flower.solve(WHITE.average_field, observation, key, steps=steps, spread=spread)[0], 4000)
    mean, expected = posterior(WHITE, H, observation.y)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
    if spread:
        np.testing.assert_allclose(np.cov(x.T), expected, atol=0.08)
    else:  # the renoising is still random, but its share of the last image is small
        assert np.trace(np.cov(x.T)) < 0.5 * np.trace(expected)


def test_dps_solves_its_equation():
    """Against scipy's solution of dx/dt = v - eta grad ||y - H m||, and the plain flow where eta = 0."""
    observation, H = blurred()
    far = Observation(y=observation.y + 5, operator=observation.operator, noise=observation.noise)
    noise, mean = np.random.default_rng(1).normal(size=SIZE), np.ravel(MEAN)

    def speed(t, x, eta):
        gain = t / ((1 - t) ** 2 + t**2)
        estimate = mean + gain * (x - t * mean)
        misfit = np.ravel(far.y) - H @ estimate
        b = mean + (2 * t - 1) / ((1 - t) ** 2 + t**2) * (x - t * mean)
        return b + eta * gain * H.T @ misfit / np.linalg.norm(misfit)

    start = jnp.asarray(noise.reshape(SHAPE), float)
    run = jax.jit(lambda eta: dps.solve(WHITE.average_field, far, KEY, steps=1000, eta=eta, noise=start))
    for eta in (0.0, 1.0):
        exact = solve_ivp(speed, (0, 1), noise, args=(eta,), rtol=1e-8, atol=1e-8).y[:, -1]
        x, info = run(eta)
        np.testing.assert_allclose(np.ravel(x), exact, atol=0.01)
    assert info.residual[-1] < run(0.0)[1].residual[-1]


def test_d_flow_finds_the_minimum():
    """For H = 1 and F(x0) = c + a x0 it lies on the line from c to y, at the root of a quadratic."""
    y, lam, points = jnp.asarray(MEAN + np.random.default_rng(3).normal(size=SHAPE), float), 0.05, 4
    observation = Observation(y=y, operator=operators.make("denoising", SHAPE), noise=GaussianNoise(sigma=0.2))
    target = Gaussian(MEAN, 0.5)
    x, info = jax.jit(lambda: d_flow.solve(target.average_field, observation, KEY, steps=30, points=points, lam=lam))()
    times = jnp.linspace(0, 1, points)
    centre = d_flow.integrate(target.average_field, jnp.zeros(SHAPE), times)
    a = float((d_flow.integrate(target.average_field, jnp.ones(SHAPE), times) - centre)[0, 0, 0])
    direction = np.ravel(y - centre)
    d = np.linalg.norm(direction)
    # (2 a^2 + lam) r^2 - 2 a d r - lam (n - 1) = 0
    r = max(np.roots([2 * a**2 + lam, -2 * a * d, -lam * (SIZE - 1)]))
    np.testing.assert_allclose(np.ravel(x), np.ravel(centre) + a * r * direction / d, atol=1e-3)
    assert info.failed_step == -1


def test_flow_priors_descends_its_objective_with_the_gradient_of_the_trace():
    """Against Adam in numpy on a field that acts on every pixel apart: there one probe has the trace exactly."""
    steps, inner, lam, eta = 5, 3, 0.7, 0.05
    observation, H = blurred()
    noise, y = np.random.default_rng(1).normal(size=SIZE), np.ravel(observation.y)
    x = noise.copy()
    for i in range(steps):
        t, u, first, second = i / steps, (i + 1) / steps, np.zeros(SIZE), np.zeros(SIZE)
        for k in range(1, inner + 1):
            v, slope, bend = np.sin(3 * x), 3 * np.cos(3 * x), -9 * np.sin(3 * x)
            misfit = H @ (x + v / steps) - (u * y + (1 - u) * H @ noise)
            score = (t * v - x) / (1 - t)
            g = 2 * lam * (1 + slope / steps) * (H.T @ misfit) - score + bend / steps
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            x = x - eta * first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.999**k)) + 1e-8)
        x = x + np.sin(3 * x) / steps
    options = dict(steps=steps, inner=inner, lam=lam, eta=eta, noise=jnp.asarray(noise.reshape(SHAPE), float))
    ours, _ = jax.jit(lambda: flow_priors.solve(lambda x, s, t: jnp.sin(3 * x), observation, KEY, **options))()
    np.testing.assert_allclose(np.ravel(ours), x, atol=1e-4)


def test_flow_priors_without_descent_is_the_flow_and_with_it_fits_the_measurement():
    observation, _ = blurred(sigma=1e-3)
    noise = jax.random.normal(KEY, SHAPE)
    clear = Observation(y=observation.y, operator=operators.make("denoising", SHAPE), noise=observation.noise)

    def run(eta):
        return flow_priors.solve(COLOURED.average_field, clear, KEY, steps=100, inner=10, eta=eta, noise=noise)

    plain, fitted = (jax.jit(run)(eta)[0] for eta in (0.0, 0.05))
    flow = COLOURED.average_field(noise, 0.0, 1.0) + noise
    np.testing.assert_allclose(plain, flow, atol=0.05)
    np.testing.assert_allclose(fitted, clear.y, atol=0.05)  # what Adam's last steps of eta leave


def stay(observation, key, s, t, steps, target=COLOURED, **options):
    """Plug-and-play held at the times s and t, with gamma = 1 (gain 1/2 on the whole square)."""
    options = dict(knob="fixed", lookahead=t, exponent=0.0, gain=0.5) | options
    return pnp.solve(target.average_field, observation, key, steps=steps, times=jnp.full(steps, s), **options)[0]


@pytest.mark.parametrize("t", [0.5, 0.8, 1.0])
def test_pnp_without_renoising_settles_on_tikhonovs(t):
    observation, H = blurred(COLOURED)
    run = jax.jit(lambda t: stay(observation, KEY, 0.5, t, 100, noise=jnp.zeros((100, *SHAPE))))
    np.testing.assert_allclose(run(t), fixed_point(COLOURED, H, np.ravel(observation.y), 0.5, t, 1.0), atol=1e-5)


@pytest.mark.slow
def test_pnp_renoised_settles_in_law():
    observation, H = blurred(COLOURED)
    x = draw(lambda key: stay(observation, key, 0.5, 1.0, 20), 6000)
    expected = fixed_point(COLOURED, H, np.ravel(observation.y), 0.5, 1.0, 1.0)
    np.testing.assert_allclose(x.mean(0), np.ravel(expected), atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), stationary_covariance(COLOURED, H, 0.5, 1.0, 1.0), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("t", "draws"), [(1.0, 1), (0.5, 1), (0.5, 4)])
def test_pnp_without_a_measurement_keeps_the_prior(t, draws):
    """All of its covariance at t = 1, at most half at t = s; the renoisings of one step average."""
    nothing = operators.from_function(lambda x: 0 * x, SHAPE, linear=True)
    observation = Observation(y=jnp.zeros(SHAPE), operator=nothing, noise=GaussianNoise(sigma=SIGMA))
    x = draw(lambda key: stay(observation, key, 0.5, t, 20, noise_draws=draws), 6000)
    expected = stationary_covariance(COLOURED, np.zeros((SIZE, SIZE)), 0.5, t, 1.0) / draws
    np.testing.assert_allclose(np.cov(x.T), expected, atol=0.1)
    if t == 1:
        np.testing.assert_allclose(expected, covariance(), atol=1e-6)
    else:
        assert np.trace(expected) <= 0.5 * np.trace(covariance())


def test_pnp_along_the_chord():
    """Fixed points of the chord are those of the shrinkage between those of its ends."""
    observation, H = blurred(COLOURED)
    noise = jnp.zeros((150, *SHAPE))
    x = jax.jit(lambda: stay(observation, KEY, 0.5, 0.3, 150, knob="chord", noise=noise))()
    gain = 0.7 * np.asarray(COLOURED.gain(0.5, 0.5), float) + 0.3 * np.asarray(COLOURED.gain(0.5, 1.0), float)
    shrink = 0.5 * COLOURED.basis * gain @ COLOURED.basis.T
    step = shrink @ (np.eye(SIZE) - H.T @ H)
    moved = np.linalg.solve(np.eye(SIZE) - step, shrink @ H.T @ (np.ravel(observation.y) - H @ np.ravel(MEAN)))
    np.testing.assert_allclose(np.ravel(x), np.ravel(MEAN) + moved, atol=1e-5)


def test_pnp_proximal_step_is_the_minimiser():
    observation, H = blurred(COLOURED)
    # One step at s = 1 without a field returns what the data step makes of x = 0, times the size (1 - s)^0 gain.
    x = jax.jit(lambda: stay(observation, KEY, 1.0, 1.0, 1, data_step="proximal", gain=3.0))()
    expected = np.linalg.solve(np.eye(SIZE) + 6 * H.T @ H, 6 * H.T @ np.ravel(observation.y))
    np.testing.assert_allclose(np.ravel(x), expected, atol=1e-4)


def test_pnp_safe_steps_do_not_diverge_where_published_ones_do():
    H = operators.from_function(lambda x: 3 * x, SHAPE, linear=True)
    observation = observe(H, GaussianNoise(sigma=0.1), WHITE.sample(KEY, 1)[0], KEY)

    @jax.jit
    def last(gain):
        options = dict(steps=60, gain=gain, noise=jnp.zeros((60, *SHAPE)))
        both = (pnp.solve(WHITE.average_field, observation, KEY, schedule=s, **options) for s in ("published", "safe"))
        return [info.residual[-1] for _, info in both]

    published, safe = last(1.0)
    assert published > 100 or not np.isfinite(published)
    assert safe < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "gain"),
    [(PoissonNoise(peak=20.0), 0.05), (PoissonNoise(peak=500.0), 0.05), (LaplaceNoise(scale=0.1), 0.2)],
    ids=["dim", "bright", "laplace"],
)
def test_other_noise_models_pull_towards_the_measurement(noise, gain):
    """In a dark picture: a third of its pixels is black."""
    target = Gaussian(np.full(SHAPE, -0.8), 0.2)
    clean = jnp.maximum(target.sample(KEY, 1)[0], -1)
    observation = observe(operators.make("denoising", SHAPE), noise, clean, KEY)
    run = jax.jit(lambda gain: pnp.solve(target.average_field, observation, KEY, steps=40, gain=gain)[1])
    with_data, without = run(gain), run(0.0)
    assert with_data.failed_step == -1
    assert with_data.residual[-1] < 0.7 * without.residual[-1]


# The contract: compiled once, per image, reproducible, honest about its cost.

SMALL = dict(
    pnp=dict(steps=4),
    pnp_flow=dict(steps=4),
    ot_ode=dict(steps=4),
    flow_priors=dict(steps=4, lam=10.0),
    d_flow=dict(steps=2, points=3),
    dps=dict(steps=4, eta=1.0),
    flower=dict(steps=4),
)
DATA = dict(
    pnp=dict(lookahead=0.5, gain=0.2, exponent=0.5),
    pnp_flow=dict(gain=0.2),
    ot_ode=dict(start=0.3),
    flow_priors=dict(lam=20.0, eta=0.1),
    d_flow=dict(lam=0.1, blend=0.5),
    dps=dict(eta=3.0),
    flower=dict(lookahead=0.5, spread=0.5),
)


def batch(n):
    """Observations of n images, each through a mask of its own."""

    def measure(key, x):
        mask_key, noise_key = jax.random.split(key)
        H = operators.make("random_inpainting", SHAPE, mask_key, ratio=0.4)
        return observe(H, GaussianNoise(sigma=0.1), x, noise_key)

    return jax.vmap(measure)(jax.random.split(KEY, n), COLOURED.sample(KEY, n))


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_one_program_per_image_and_for_all_options_that_are_numbers(name):
    observations, keys, traces = batch(4), jax.random.split(jax.random.key(1), 4), []

    def restore(observation, key, options):
        traces.append(0)
        return solvers.make(name, **SMALL[name] | options)(COLOURED.average_field, observation, key)

    together = jax.jit(jax.vmap(restore, in_axes=(0, 0, None)))
    first, second = (jax.tree.map(lambda value, scale=scale: value * scale, DATA[name]) for scale in (1.0, 0.9))
    x, info = together(observations, keys, first)
    other, _ = together(observations, keys, second)
    assert len(traces) == 1
    assert np.abs(x - other).max() > 1e-4
    np.testing.assert_array_equal(together(observations, keys, first)[0], x)
    raise_if_diverged(info, "inpainting", name)
    assert info.residual.shape == (4, SMALL[name]["steps"])
    np.testing.assert_allclose(
        info.residual[:, -1], jax.vmap(lambda observation, x: observation.residual(x))(observations, x), rtol=1e-4
    )
    alone = jax.jit(restore)
    for i in (0, 3):
        one, one_info = alone(jax.tree.map(lambda leaf, i=i: leaf[i], observations), keys[i], first)
        np.testing.assert_allclose(one, x[i], atol=2e-5)
        assert one_info.evaluations == info.evaluations[i]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("d_flow", "pnp") else n for n in SOLVERS]
)
def test_scan_is_a_python_loop(name):
    H = operators.make("box_inpainting", SHAPE, size=2)
    observation = Observation(y=H(jnp.asarray(MEAN, float)), operator=H, noise=GaussianNoise(sigma=0.3))
    # Given draws: without jit, drawing is slow.
    shape = dict(pnp=(2, *SHAPE), pnp_flow=(2, 5, *SHAPE)).get(name, SHAPE)
    noise = {} if name in ("flower", "d_flow") else dict(noise=jax.random.normal(KEY, shape))
    run = solvers.make(name, **SMALL[name] | dict(steps=2, keep=True) | noise)
    x, info = jax.jit(lambda: run(COLOURED.average_field, observation, KEY))()
    with jax.disable_jit():
        looped, looped_info = run(COLOURED.average_field, observation, KEY)
    np.testing.assert_allclose(x, looped, atol=1e-4)
    np.testing.assert_allclose(info.iterates, looped_info.iterates, atol=1e-4)
    np.testing.assert_allclose(info.iterates[-1], x, atol=1e-6)
    assert info.iterates.shape == (2, *SHAPE)


@pytest.mark.parametrize("name", [*SOLVERS, "pnp-chord"])
def test_evaluations_are_counted(name, monkeypatch):
    monkeypatch.setattr(jax, "checkpoint", lambda function: function)  # it would evaluate again for the gradient
    count = []

    def field(x, s, t):
        jax.debug.callback(lambda x: count.append(x.size // SIZE), x)
        return COLOURED.average_field(x, s, t)

    observation, _ = blurred()
    name, *chord = name.split("-")
    options = SMALL[name] | (dict(knob="chord") if chord else {})
    _, info = jax.jit(lambda: solvers.make(name, **options)(field, observation, KEY))()
    jax.effects_barrier()
    # A directional derivative is reported as an evaluation of its own.
    derivatives = options["steps"] if name == "flow_priors" else 0
    assert sum(count) == info.evaluations - derivatives
    assert 0 <= info.gradients <= info.evaluations


@pytest.mark.parametrize("name", ["pnp", "d_flow", "flower"])
def test_a_diverging_solve_names_task_solver_and_step(name):
    observation, _ = blurred()

    def field(x, s, t):
        return jnp.where(s + 0 * x > 0.4, jnp.nan, -x)

    options = dict(SMALL[name], steps=4)
    _, info = jax.jit(lambda: solvers.make(name, **options)(field, observation, KEY))()
    assert info.failed_step >= 0
    with pytest.raises(DivergenceError, match=rf"blurry: {name} diverged at step \d of 4 \(not finite\)") as error:
        raise_if_diverged(info, "blurry", name)
    assert "\n" not in str(error.value)
    several = info._replace(failed_step=jnp.array([-1, 3, 1]), residual=jnp.zeros((3, 4)))
    with pytest.raises(DivergenceError, match="at step 1 of 4 in 2 of 3 images"):
        raise_if_diverged(several, "blurry", name)
    raise_if_diverged(info._replace(failed_step=jnp.array(-1)), "blurry", name)


@pytest.mark.slow
def test_pnp_flow_is_its_preset():
    observation, _ = blurred()
    noise = jax.random.normal(KEY, (3, 5, *SHAPE))
    x, info = pnp_flow.solve(WHITE.average_field, observation, KEY, steps=3, noise=noise)
    ours = jnp.zeros(SHAPE)
    for i in range(3):
        s = i / 3
        z = ours - (1 - s) ** 0.5 * operators.adjoint(observation.operator, observation.operator(ours) - observation.y)
        z = s * z + (1 - s) * noise[i]
        ours = jnp.mean(z + (1 - s) * WHITE.average_field(z, s, s), 0)
    np.testing.assert_allclose(x, ours, atol=1e-5)
    assert info.evaluations == 15


BAD = [
    ("pnpp", {}, "unknown solver 'pnpp', did you mean 'pnp'"),
    ("pnp", dict(lookahed=0.3), "pnp: unknown option 'lookahed', did you mean 'lookahead'"),
    ("pnp", dict(steps=0), "pnp: steps=0: pass a number that is at least 1"),
    ("pnp", dict(lookahead=1.5), "pnp: lookahead=1.5: pass a number from 0 to 1"),
    ("pnp", dict(gain=-1.0), "pnp: gain=-1.0: pass a number that is at least 0"),
    ("pnp", dict(gain=float("nan")), "pnp: gain=nan"),
    (
        "pnp",
        dict(knob="relativ"),
        "unknown knob 'relativ', did you mean 'relative'.; known: additive, relative, fixed, chord",
    ),
    ("pnp", dict(schedule="fast"), "pnp: unknown schedule 'fast'; known: published, safe"),
    ("pnp", dict(times=jnp.zeros(7)), r"times has shape \(7,\): pass one for each of the 100 steps"),
    ("pnp", dict(noise=jnp.zeros((3, *SHAPE))), r"pass \(steps, noise_draws, H, W, C\) = \(100, 1, 4, 3, 1\)"),
    ("ot_ode", dict(start=0.0), "ot_ode: start=0.0: pass a number from 0.0001 to 0.9999"),
    ("d_flow", dict(points=1), "d_flow: points=1: pass a number that is at least 2"),
    ("d_flow", dict(blend=2.0), "d_flow: blend=2.0"),
    ("flower", dict(spread=-1.0), "flower: spread=-1.0"),
    ("dps", dict(eta=-1.0), "dps: eta=-1.0"),
    ("flow_priors", dict(lam=-1.0), "flow_priors: lam=-1.0"),
    *(
        (
            name,
            dict(noise=jnp.zeros((4, 1, 1))),
            rf"{name}: noise has shape \(4, 1, 1\): pass \(H, W, C\) = \(4, 3, 1\)",
        )
        for name in ("dps", "ot_ode", "flow_priors")
    ),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_options_are_one_clear_line(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        solvers.make(name, **options)(WHITE.average_field, blurred()[0], KEY)
    assert "\n" not in str(error.value)


def test_what_a_solver_cannot_solve():
    H, noise = operators.make("hdr", SHAPE), GaussianNoise(sigma=0.1)
    observation = Observation(y=jnp.zeros(SHAPE), operator=H, noise=noise)
    for name in ("ot_ode", "flow_priors", "flower"):
        with pytest.raises(InputError, match=f"{name} needs a linear operator, hdr is not: use pnp, dps or d_flow"):
            SOLVERS[name](WHITE.average_field, observation, KEY)
    counted = Observation(y=jnp.zeros(SHAPE), operator=operators.make("denoising", SHAPE), noise=PoissonNoise(peak=9.0))
    with pytest.raises(InputError, match="'proximal' is for Gaussian noise"):
        pnp.solve(WHITE.average_field, counted, KEY, data_step="proximal")
    wrong = Observation(y=jnp.zeros((2, *SHAPE)), operator=H, noise=noise)
    for name in SOLVERS:
        with pytest.raises(InputError, match=r"y has shape \(2, 4, 3, 1\) but hdr"):
            SOLVERS[name](WHITE.average_field, wrong, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pnp", "dps", "d_flow"])
def test_nonlinear_operators_are_restored(name):
    shape = (16, 16, 3)
    target = Gaussian(np.zeros(shape), 0.1)
    observation = observe(
        operators.make("jpeg", shape, quality=10), GaussianNoise(sigma=0.02), target.sample(KEY, 1)[0], KEY
    )
    options = dict(pnp=dict(steps=20, gain=0.2), dps=dict(steps=20, eta=5.0), d_flow=dict(steps=5, points=3))[name]
    x, info = jax.jit(lambda: solvers.make(name, **options)(target.average_field, observation, KEY))()
    raise_if_diverged(info, "jpeg", name)
    assert observation.residual(x) < 0.9 * observation.residual(jnp.zeros(shape))


# Stored trajectories of the published program.

ROUNDING = 2e-6 if jax.default_backend() == "cpu" else 2e-5

PAIR = dict(
    inpainting_box=("box_inpainting", dict(size=5)),
    deblurring_gaussian=("gaussian_blur", dict(kernel_size=7, std=1.5)),
    super_resolution=("super_resolution", dict(factor=2)),
    colorization=("colorization", {}),
)


@pytest.fixture(scope="module")
def stored(reference):
    """The arrays by name with channels last, the exact target, and its operators."""
    arrays = np.load(reference / "solvers.npz")
    stored = {name: np.moveaxis(arrays[name], -3, -1) for name in arrays.files if arrays[name].ndim >= 3}
    target = Gaussian(stored["mu"], stored["sigma"] ** 2)
    shape = stored["mu"].shape
    return stored, target, {task: operators.make(name, shape, **p) for task, (name, p) in PAIR.items()}


@pytest.mark.parametrize("task", PAIR)
def test_reference_pnp(stored, task):
    arrays, target, made = stored

    @jax.jit
    def run(y, noise, lookahead):
        observation = Observation(y=y, operator=made[task], noise=GaussianNoise(sigma=0.05))
        options = dict(steps=20, lookahead=lookahead, noise=noise, keep=True)
        return pnp.solve(target.average_field, observation, KEY, **options)[1].iterates

    pair = jax.vmap(run, in_axes=(0, 1, None), out_axes=1)
    for lookahead in (0.0, 0.3, 1.0):
        given = arrays[f"{task}/pnp_la{lookahead}/eps"]
        iterates = pair(jnp.asarray(arrays[f"{task}/y"]), jnp.asarray(given), lookahead)
        expected = arrays[f"{task}/pnp_la{lookahead}/x"]
        np.testing.assert_allclose(iterates, expected, atol=1.5 * ROUNDING)
        np.testing.assert_allclose(iterates[-1], expected[-1], atol=ROUNDING)


@pytest.mark.parametrize("task", PAIR)
def test_reference_dps_whose_norm_spans_both_images(stored, task):
    """The two images as one of twice the height: theirs divides by the norm of the whole batch."""
    arrays, single, made = stored
    target = Gaussian(np.tile(single.mean, (2, 1, 1)), np.tile(single.covariance, (2, 1, 1)))

    def both(x):
        return jax.vmap(made[task])(x.reshape(2, 16, 16, 3))

    y = jnp.asarray(arrays[f"{task}/y"])
    H = operators.from_function(both, (32, 16, 3), linear=True)
    observation = Observation(y=y, operator=H, noise=GaussianNoise(sigma=0.05))
    start = jnp.asarray(arrays[f"{task}/dps_eta1/x0"]).reshape(32, 16, 3)
    run = jax.jit(lambda: dps.solve(target.average_field, observation, KEY, steps=20, eta=1.0, noise=start)[0])
    np.testing.assert_allclose(run().reshape(2, 16, 16, 3), arrays[f"{task}/dps_eta1/x"], atol=ROUNDING)


def test_reference_ot_ode(stored):
    arrays, target, made = stored
    y, noise, expected = (
        jnp.asarray(arrays[f"inpainting_box/ot_ode_gamma_t_0.2/{part}"].reshape(-1, 16, 16, 3))
        for part in ("y", "noise", "x")
    )

    @jax.jit
    @jax.vmap
    def run(y, noise):
        observation = Observation(y=y, operator=made["inpainting_box"], noise=GaussianNoise(sigma=0.05))
        return ot_ode.solve(target.average_field, observation, KEY, steps=16, start=0.2, noise=noise)[0]

    np.testing.assert_allclose(run(y, noise), expected, atol=ROUNDING)


class TheirPoisson:
    """The Poisson term of the published program, without the peak: also an example of a noise model of one's own."""

    variance = 0.5

    def negative_log_likelihood(self, prediction, y):
        rate = jnp.maximum((prediction + 1) / 2, 1e-6)
        return jnp.sum(rate - (y + 1) / 2 * jnp.log(rate))


def test_reference_pnp_with_their_poisson_term(stored):
    arrays, target, made = stored

    @jax.jit
    def run(y, noise):
        observation = Observation(y=y, operator=made["deblurring_gaussian"], noise=TheirPoisson())
        options = dict(steps=20, lookahead=0.3, gain=0.5, noise=noise, keep=True)
        return pnp.solve(target.average_field, observation, KEY, **options)[1].iterates

    y, noise = (jnp.asarray(arrays[f"poisson_deblur/{part}"]) for part in ("y", "pnp_la0.3/eps"))
    iterates = jax.vmap(run, in_axes=(0, 1), out_axes=1)(y, noise)
    np.testing.assert_allclose(iterates, arrays["poisson_deblur/pnp_la0.3/x"], atol=1e-4)


@pytest.mark.slow
def test_pnp_costs_little_more_than_its_evaluations():
    """A 100-step inpainting of 64 digits with the 1.5 M parameter MLP against 100 bare evaluations, both scanned."""
    if jax.default_backend() != "cpu":
        pytest.skip("the time of the processor says nothing about an accelerator")
    from fmdp.networks.mlp import MLP

    net, shape, n = MLP(), (8, 8, 1), 64
    parameters = net.init(KEY, jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1))
    H = operators.make("box_inpainting", shape, size=3)
    y = jax.random.normal(KEY, (n, *shape))

    @jax.jit
    def solve(parameters, y, keys):
        def restore(y, key):
            observation = Observation(y=y, operator=H, noise=GaussianNoise(sigma=0.05))
            return pnp.solve(lambda *a: net.apply(parameters, *a), observation, key)[0]

        return jax.vmap(restore)(y, keys)

    @jax.jit
    def bare(parameters, x):
        def step(x, s):  # one time for the whole batch, as in the solver: the network embeds it once
            return jax.vmap(lambda x: net.apply(parameters, x, s, jnp.minimum(s + 0.3, 1)))(x), None

        return jax.lax.scan(step, x, jnp.arange(100) / 100)[0]

    def seconds(run, *given):
        jax.block_until_ready(run(*given))
        began = time.process_time()  # of all threads: what else the machine does counts less
        jax.block_until_ready(run(*given))
        return time.process_time() - began

    keys = jax.random.split(KEY, n)
    pairs = [(seconds(solve, parameters, y, keys), seconds(bare, parameters, y)) for _ in range(15)]
    assert min(solving for solving, _ in pairs) < 1.5 * min(plain for _, plain in pairs)
