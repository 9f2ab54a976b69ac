import gc
import itertools
import weakref

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from scipy.integrate import solve_ivp

from fmdp.errors import InputError
from fmdp.exact import Gaussian, GaussianMixture, fixed_point, stationary_covariance
from fmdp.exact.components import in_chunks
from fmdp.flow import losses
from fmdp.flow.average_field import denoise, flow_map

pytestmark = pytest.mark.device

SHAPE = (2, 3, 1)
N = 6


def random_covariance(seed, n=N):
    root = np.random.default_rng(seed).normal(size=(n, n))
    return root @ root.T / n


def random_mean(seed):
    return np.random.default_rng(seed).normal(size=SHAPE)


def targets():
    mean = random_mean(0)
    return {
        "scalar": Gaussian(mean, 0.3),
        "diagonal": Gaussian(mean, np.linspace(0.01, 2, N).reshape(SHAPE)),
        "full": Gaussian(mean, random_covariance(1)),
        "singular": Gaussian(mean, np.diag([0, 0, 0.1, 0.5, 1, 2.0])),
    }


def small_mixture(scale=1.0, **kwargs):
    means = scale * np.stack([random_mean(seed).ravel() for seed in range(3)])
    covariances = np.stack([0.3 * random_covariance(seed) for seed in range(3)])
    return GaussianMixture(np.array([0.2, 0.3, 0.5]), means, covariances, SHAPE, **kwargs)


def integrate(velocity, x, s, t):
    """The flow by scipy's solver, an implementation apart from ours and diffrax's."""
    rhs = jax.jit(lambda t, x: velocity(x.reshape(SHAPE), t).ravel())
    out = solve_ivp(lambda t, x: np.asarray(rhs(t, x)), (s, t), np.ravel(x), method="DOP853", rtol=1e-12, atol=1e-12)
    return out.y[:, -1].reshape(SHAPE)


def gaussian_velocity(target):
    """B from the posterior mean, by the textbook formula with a dense inverse."""
    covariance = np.asarray(target.basis * target.eigenvalues @ target.basis.T)

    def velocity(x, t):
        marginal = (1 - t) ** 2 * jnp.eye(N) + t**2 * covariance
        whitened = jnp.linalg.solve(marginal, (x - t * target.mean).ravel())
        return target.mean + ((t * covariance - (1 - t) * jnp.eye(N)) @ whitened).reshape(SHAPE)

    return velocity


@pytest.mark.parametrize(("s", "t"), [(0.0, 1.0), (0.0, 0.3), (0.4, 0.8), (0.7, 1.0)])
def test_gaussian_field_is_the_flow_of_the_velocity(x64, s, t):
    target = targets()["full"]
    x = jnp.asarray(random_mean(9))
    truth = integrate(gaussian_velocity(target), x, s, t)
    np.testing.assert_allclose(flow_map(target.average_field, x, s, t), truth, atol=1e-9)


@pytest.mark.parametrize("name", targets())
def test_gaussian_field_at_the_boundaries(x64, name):
    target = targets()[name]
    field = target.average_field
    x = jnp.asarray(random_mean(3))
    lam = target.eigenvalues
    np.testing.assert_allclose(denoise(field, x, 0.0, 0.0), target.mean, atol=1e-12)
    np.testing.assert_allclose(denoise(field, x, 1.0, 1.0), x, atol=1e-12)
    np.testing.assert_allclose(target.gain(0.3, 0.3), 0.3 * lam / (0.49 + 0.09 * lam), atol=1e-14)
    np.testing.assert_allclose(target.gain(0.3, 1.0), np.sqrt(lam / (0.49 + 0.09 * lam)), atol=1e-14)
    np.testing.assert_allclose(target.gain(1.0, 1.0), 1)
    for s, t in [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0)]:
        slopes = jax.jacfwd(lambda s, t: field(x, s, t), (0, 1))(jnp.asarray(s), jnp.asarray(t))
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_gaussian_field_is_smooth_across_the_diagonal_in_float32(x64):
    target = Gaussian(np.zeros(SHAPE), np.logspace(-3, 0, N).reshape(SHAPE))
    with jax.enable_x64(False):
        x = jnp.ones(SHAPE)
        near = target.average_field(jnp.broadcast_to(x, (5, *SHAPE)), 0.5, 0.5 + jnp.array([0, 1e-7, 1e-6, 1e-5, 1e-4]))
        assert near.dtype == jnp.float32
        np.testing.assert_allclose(near, jnp.broadcast_to(near[0], near.shape), rtol=5e-4, atol=5e-4)
        slope = jax.jacfwd(lambda t: target.average_field(x, 0.5, t))(0.5)
    exact = [target.average_field(jnp.ones(SHAPE), 0.5, jnp.asarray(0.5 + h)) for h in (0.0, 1e-6)]
    difference = np.asarray(exact[1] - exact[0]) / 1e-6
    np.testing.assert_allclose(slope, difference, rtol=1e-3)


@pytest.mark.slow
def test_fields_take_scalars_and_leading_shapes_under_transformations(x64):
    x = jax.random.normal(jax.random.key(0), (2, 3, *SHAPE))
    s, t = jnp.linspace(0, 0.5, 6).reshape(2, 3), jnp.linspace(0.5, 1, 6).reshape(2, 3)
    for target in (targets()["full"], small_mixture(chunk=4)):
        field = target.average_field
        whole = jax.jit(field)(x, s, t)
        single = jax.vmap(jax.vmap(field))(x, s, t)
        np.testing.assert_allclose(whole, single, atol=1e-6)
        np.testing.assert_allclose(field(x[1, 2], 0.5, 1.0), whole[1, 2], atol=1e-6)


@pytest.mark.slow
def test_gaussian_mse_and_w2_against_monte_carlo():
    target = targets()["full"]
    s, times, n = 0.4, jnp.array([0.4, 0.7, 1.0]), 100_000
    x1 = target.sample(jax.random.key(0), n)
    x = s * x1 + (1 - s) * jax.random.normal(jax.random.key(1), x1.shape)
    estimates = jax.vmap(lambda t: denoise(target.average_field, x, s, t))(times)
    error = np.mean((estimates - x1) ** 2, (1, 2, 3, 4))
    np.testing.assert_allclose(target.mse(s, times), error, rtol=0.01)
    covariance = target.covariance
    for estimate, expected in zip(np.asarray(estimates), np.asarray(target.squared_w2(s, times)), strict=True):
        # W2 between Gaussians with estimated moments, by the eigenvalues of the product of covariances.
        flat = estimate.reshape(n, -1).astype(float)
        cov = np.cov(flat.T)
        cross = np.sqrt(np.maximum(np.linalg.eigvals(cov @ covariance).real, 0)).sum()
        bias = np.square(flat.mean(0) - np.ravel(target.mean)).sum()
        squared = (bias + np.trace(cov) + np.trace(covariance) - 2 * cross) / N
        assert squared == pytest.approx(float(expected), rel=0.02, abs=1e-4)
    assert float(target.mse(s, s)) == pytest.approx(float(target.mmse(s)))
    np.testing.assert_allclose(np.cov(x1.reshape(n, -1).T), covariance, atol=0.02)


def test_gain_mse_and_w2_are_monotone_in_the_lookahead(x64):
    target = targets()["full"]
    for s in (0.0, 0.3, 0.8):
        t = jnp.linspace(s, 1, 50)
        assert np.all(np.diff(target.gain(s, t), axis=0) > 0)
        assert np.all(np.diff(target.mse(s, t)) > 0)
        assert np.all(np.diff(target.squared_w2(s, t)) < 0)


@pytest.mark.slow
def test_off_diagonal_losses_are_zero_at_exact_fields(x64):
    x0, x1 = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    times = tuple(map(jnp.asarray, (0.25, 0.5, 0.8)))
    names = ("lagrangian", "semigroup", "eulerian")
    for target, bound in ((targets()["full"], 1e-25), (small_mixture(tolerance=1e-9), 1e-12)):
        terms = jax.jit(lambda *a, f=target.average_field: [losses.OFF_DIAGONAL[name](f, *a) for name in names])
        np.testing.assert_array_less(terms(x0, x1, *times), bound)
    wrong = losses.lagrangian(lambda x, s, t: 1.1 * targets()["full"].average_field(x, s, t), x0, x1, *times[::2])
    assert wrong > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diagonal", "meanflow", "improved_meanflow"])
def test_gradient_of_the_noisy_losses_vanishes_on_average_at_the_exact_field(name):
    """Their values do not: the conditional velocity is noisy. A small change of the field must not lower them."""
    target = targets()["full"]
    x1 = target.sample(jax.random.key(0), 50_000)
    x0 = jax.random.normal(jax.random.key(1), x1.shape)
    s, t = jnp.asarray(0.3), jnp.asarray(0.8)

    def term(changes, x0, x1):
        def field(x, s, t):
            shift, stretch, skew = changes
            return target.average_field(x, s, t) + shift + stretch * x + skew * x[::-1]

        if name == "diagonal":
            return losses.diagonal(field, x0, x1, s)
        return losses.OFF_DIAGONAL[name](field, x0, x1, s, s, t)

    value, slopes = jax.vmap(jax.value_and_grad(term), (None, 0, 0))(jnp.zeros(3), x0, x1)
    assert value.mean() > 0.05
    error = slopes.std(0) / np.sqrt(len(x1))
    assert np.all(np.abs(slopes.mean(0)) < 4 * error)
    off = jax.vmap(jax.grad(term), (None, 0, 0))(jnp.array([0.05, 0.05, 0.05]), x0, x1).mean(0)
    assert np.all(np.abs(off) > 8 * error)


@pytest.mark.slow
def test_mixture_flow_against_an_independent_solver(x64):
    target = small_mixture(tolerance=1e-10)
    x = jnp.asarray(random_mean(5))
    log_density = [
        lambda x, t, k=k: (
            jax.scipy.stats.multivariate_normal.logpdf(
                x, t * target.means[k], (1 - t) ** 2 * jnp.eye(N) + t**2 * target.covariances[k]
            )
            + jnp.log(target.weights[k])
        )
        for k in range(3)
    ]

    def velocity(x, t):
        score = jax.grad(lambda x: jax.nn.logsumexp(jnp.stack([f(x, t) for f in log_density])))(x.ravel())
        return (x + (1 - t) * score.reshape(SHAPE)) / t

    np.testing.assert_allclose(target.velocity(x, 0.6), velocity(x, 0.6), atol=1e-11)
    truth = integrate(velocity, x, 0.2, 0.9)
    np.testing.assert_allclose(flow_map(target.average_field, x, 0.2, 0.9), truth, atol=1e-9)
    loose = flow_map(small_mixture().average_field, x, 0.2, 0.9)
    np.testing.assert_allclose(loose, truth, atol=300e-6)  # the tolerance stated
    assert np.abs(loose - truth).max() > 1e-9


@pytest.mark.slow
def test_mixture_of_one_component_is_the_gaussian(x64):
    covariance = random_covariance(4)
    gaussian = Gaussian(random_mean(1), covariance)
    mixture = GaussianMixture(np.ones(1), random_mean(1)[None], covariance[None], SHAPE, tolerance=1e-10)
    x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    s, t = jnp.array([0.0, 0.3, 0.6]), jnp.array([1.0, 0.3, 0.9])
    np.testing.assert_allclose(mixture.average_field(x, s, t), gaussian.average_field(x, s, t), atol=1e-8)
    np.testing.assert_allclose(mixture.covariance, covariance, atol=1e-12)
    value, error = mixture.mmse(jax.random.key(0), 0.3, 100)
    assert value == pytest.approx(float(gaussian.mmse(0.3)), abs=1e-12)
    assert error < 1e-12


@pytest.mark.slow
def test_one_trajectory_gives_every_lookahead(x64):
    target = small_mixture(tolerance=1e-9)
    x = jax.random.normal(jax.random.key(0), (4, *SHAPE))
    times = jnp.array([0.3, 0.3, 0.55, 0.9, 1.0])
    along = target.denoise_along(x, 0.3, times)
    apart = jax.vmap(lambda t: denoise(target.average_field, x, 0.3, t))(times)
    np.testing.assert_allclose(along, apart, atol=1e-7)
    np.testing.assert_allclose(along[0], target.posterior_mean(x, 0.3), atol=1e-12)
    np.testing.assert_allclose(target.denoise_along(x, 1.0, jnp.ones(5))[0], x, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_targets_of_equal_shape_share_one_compilation_and_none_is_kept_alive(kind):
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    evaluate = jax.jit(lambda field, x: field(x, 0.2, 0.9))

    def used(scale):
        if kind == "mixture":
            target = small_mixture(scale=scale)
            target.sample(jax.random.key(0), 3)
        else:
            target = Gaussian(scale * random_mean(0), random_covariance(1))
        here = target.average_field(x, 0.2, 0.9)
        target.velocity(x, 0.5)
        np.testing.assert_allclose(evaluate(target.average_field, x), here, atol=1e-5)
        return weakref.ref(target), (in_chunks._cache_size(), evaluate._cache_size())

    (first, compiled), (second, compiled_again) = map(used, (1.0, 2.0))
    assert compiled == compiled_again
    gc.collect()
    assert first() is None
    assert second() is None


@pytest.mark.slow
def test_the_solve_calls_no_host_so_that_its_program_can_be_kept_in_the_compile_cache():
    target, x = small_mixture(), jnp.zeros((2, *SHAPE))
    solves = lambda x: target.average_field(x, 0.2, 0.9), lambda x: target.denoise_along(x, 0.2, np.array([0.5, 0.9]))
    for solve in solves:
        assert "callback" not in jax.jit(solve).lower(x).as_text()


@pytest.mark.slow
def test_a_solve_that_does_not_end_is_reported_or_under_a_transformation_not_a_number():
    field, x = small_mixture(tolerance=1e-30).average_field, jnp.ones((2, *SHAPE))
    with pytest.raises(InputError, match=r"no end at tolerance=1e-30 .*4096 steps.*: raise the tolerance"):
        field(x, 0.2, 0.9)
    assert np.isnan(jax.jit(field)(x, 0.2, 0.9)).all()


@pytest.mark.slow
def test_mixture_moments_mmse_and_strata():
    target = small_mixture()
    n = 20_000
    plain, stratified = (target.sample(jax.random.key(2), n, stratified=flag) for flag in (False, True))
    for sample in (plain, stratified):
        np.testing.assert_allclose(sample.reshape(n, -1).mean(0), target.mean, atol=0.02)
        np.testing.assert_allclose(np.cov(sample.reshape(n, -1).T), target.covariance, atol=0.04)
    x = 0.5 * plain + 0.5 * jax.random.normal(jax.random.key(3), plain.shape)
    squares = np.square(plain - target.posterior_mean(x, 0.5)).mean((1, 2, 3))
    value, error = target.mmse(jax.random.key(4), 0.5, 4000)
    assert abs(value - squares.mean()) < 4 * np.hypot(error, squares.std() / np.sqrt(n))
    assert error < 0.5 * squares.std() / np.sqrt(4000)
    apart = GaussianMixture(np.array([0.25, 0.75]), np.array([[-9.0], [9.0]]), np.ones((2, 1, 1)), (1, 1, 1))
    assert int((apart.sample(jax.random.key(0), 400, stratified=True) < 0).sum()) == 100


@pytest.mark.slow
def test_mixture_reverse_mode_through_another_adjoint(x64):
    x = jnp.asarray(random_mean(5))
    target = small_mixture(tolerance=1e-8, adjoint=diffrax.RecursiveCheckpointAdjoint())
    gradient = jax.grad(lambda x: target.average_field(x, 0.3, 0.8).sum())(x)
    _, slope = jax.jvp(lambda x: small_mixture(tolerance=1e-8).average_field(x, 0.3, 0.8).sum(), (x,), (x,))
    np.testing.assert_allclose(jnp.vdot(gradient, x), slope, rtol=1e-5)


def test_fit_recovers_a_mixture_from_digits():
    images = (sklearn.datasets.load_digits().images / 8 - 1)[:400, ::2, ::2, None]
    target = GaussianMixture.fit(images, 3, ridge=0.01)
    np.testing.assert_allclose(target.mean, images.reshape(400, -1).mean(0), atol=1e-6)
    np.testing.assert_allclose(target.covariance, np.cov(images.reshape(400, -1).T) + 0.01 * np.eye(16), atol=0.01)
    assert target.sample(jax.random.key(0), 5).shape == (5, 4, 4, 1)


@pytest.mark.parametrize("t", [0.6, 0.9, 1.0])
def test_plug_and_play_fixed_point(x64, t):
    target, s, gamma = targets()["full"], 0.6, 0.2
    H, y = np.random.default_rng(0).normal(size=(4, N)), np.arange(4.0)
    closed = fixed_point(target, H, y, s, t, gamma)
    m = s * np.asarray(target.gain(s, t))
    shrinkage = target.basis @ np.diag(1 / m - 1) @ target.basis.T
    tikhonov = np.linalg.solve(shrinkage + gamma * H.T @ H, gamma * H.T @ (y - H @ np.ravel(target.mean)))
    np.testing.assert_allclose(closed, target.mean + tikhonov.reshape(SHAPE), atol=1e-10)

    def step(_, x):
        z = x.ravel() - gamma * H.T @ (H @ x.ravel() - y)
        return denoise(target.average_field, s * z.reshape(SHAPE), s, t)

    np.testing.assert_allclose(jax.lax.fori_loop(0, 2000, step, jnp.zeros(SHAPE)), closed, atol=1e-10)


def test_stationary_covariance_with_renoising(x64):
    target = targets()["full"]
    none = np.zeros((1, N))
    covariance = random_covariance(1)
    np.testing.assert_allclose(stationary_covariance(target, none, 0.6, 1.0, 0.1), covariance, atol=1e-10)
    half = np.linalg.eigvalsh(covariance / 2 - stationary_covariance(target, none, 0.6, 0.6, 0.1))
    assert half.min() > -1e-12
    diagonal, H, s, t, gamma = targets()["diagonal"], np.diag(np.linspace(0, 1, N)), 0.5, 0.8, 0.7
    gain = np.asarray(diagonal.gain(s, t))
    a = s * gain * (1 - gamma * np.diag(H) ** 2)
    expected = gain**2 * (1 - s) ** 2 / (1 - a**2)
    np.testing.assert_allclose(np.diag(stationary_covariance(diagonal, H, s, t, gamma)), expected, atol=1e-12)

    def step(x, key):
        z = x - 0.1 * (x.reshape(-1, N) @ H.T @ H).reshape(x.shape)
        noise = jax.random.normal(key, x.shape)
        return denoise(zero.average_field, s * z + (1 - s) * noise, s, t), None

    zero = Gaussian(np.zeros(SHAPE), covariance)
    x, _ = jax.lax.scan(step, jnp.zeros((20_000, *SHAPE)), jax.random.split(jax.random.key(0), 30))
    settled = stationary_covariance(zero, H, s, t, 0.1)
    np.testing.assert_allclose(np.cov(x.reshape(-1, N).T), settled, atol=0.03 * settled.max())


ASYMMETRIC = np.eye(N) + np.eye(N, k=1)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Gaussian(np.zeros(SHAPE), ASYMMETRIC), "differs from its transpose by 1"),
        (lambda: Gaussian(np.zeros(SHAPE), np.diag([1, 1, 1, 1, 1, -0.5])), "eigenvalue of -0.5"),
        (lambda: Gaussian(np.zeros(SHAPE), -1.0), "eigenvalue of -1"),
        (lambda: Gaussian(np.zeros(SHAPE), np.full((N, N), np.nan)), "it holds 36 NaN"),
        (lambda: Gaussian(np.zeros(SHAPE), np.ones(4)), r"shape \(4,\)"),
        (lambda: Gaussian(np.zeros(N), 1.0), r"mean has shape \(6,\)"),
        (lambda: targets()["full"].mse(0.5, 0.4), "0.5 comes before 0.4"),
        (
            lambda: targets()["full"].average_field(jnp.zeros(SHAPE), 0.5, 1.2),
            "must ascend from 0 .* to 1 .*: 1.2 comes",
        ),
        (
            lambda: targets()["full"].average_field(jnp.zeros((2, *SHAPE)), jnp.array([0.1, -0.3]), 0.5),
            "0 comes before -0.3",
        ),
        (lambda: targets()["full"].mmse(float("nan")), "0 comes before nan"),
        (lambda: small_mixture().average_field(jnp.zeros(SHAPE), 0.5, 0.4), "0.5 comes before 0.4"),
        (lambda: small_mixture().mmse(jax.random.key(0), 0.5, 1), "1 samples are too few"),
        (lambda: GaussianMixture(np.array([1.0, 0.0]), np.zeros((2, 1)), np.ones((2, 1, 1)), (1, 1, 1)), "positive"),
        (lambda: GaussianMixture(np.ones(1), np.zeros((2, 1)), np.ones((2, 1, 1)), (1, 1, 1)), "do not fit 1"),
        (lambda: GaussianMixture.fit(np.zeros((5, *SHAPE)), 10), "too few for 10 components"),
        (lambda: fixed_point(targets()["full"], np.eye(N), np.zeros(2), 0.5, 1.0, 0.1), "operator has shape"),
        (lambda: fixed_point(targets()["full"], np.eye(N), np.zeros(N), 0.5, 1.0, 50.0), "step size 50"),
    ],
)
def test_bad_input(act, message):
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_repeated_times_are_not_rejected_for_float32_rounding():
    s, r = np.float32(0.3), np.linspace(0, 1, 101, dtype=np.float32)
    for t in itertools.chain(s + r * (1 - s), [0.3]):
        targets()["scalar"].gain(float(s), float(t))
