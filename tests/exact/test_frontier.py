import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from scipy.stats import norm

from fmdp.exact import Gaussian, GaussianMixture, frontier
from fmdp.exact.frontier import Frontier, Interval, Points
from fmdp.exact.wasserstein import squared_w2
from fmdp.flow.average_field import chord, denoise

pytestmark = pytest.mark.device


def gaussian(eigenvalues):
    eigenvalues = np.asarray(eigenvalues)
    return Gaussian(np.zeros((1, len(eigenvalues), 1)), eigenvalues.reshape(1, -1, 1))


@functools.cache
def modes():
    """The 2-D reference mixture."""
    means = np.array([[4.5, 3.5], [3.5, 5.5]])
    return GaussianMixture(np.full(2, 0.5), means, np.tile(0.35**2 * np.eye(2), (2, 1, 1)), (1, 2, 1))


@functools.cache
def digits():
    """Ten full Gaussians fitted to the digits, as in the reference."""
    images = (sklearn.datasets.load_digits().images / 8 - 1)[..., None]
    return GaussianMixture.fit(images, 10, ridge=0.01, tolerance=1e-4)


def noisy(target, s, n, seed=0):
    x1 = target.sample(jax.random.key(seed), n, stratified=True)
    return x1, s * x1 + (1 - s) * jax.random.normal(jax.random.key(seed + 100), x1.shape)


@pytest.mark.slow
def test_isotropic_lookahead_is_on_the_frontier(x64):
    target = gaussian(np.full(5, 0.4))
    for s in (0.0, 0.3, 0.5, 0.9):
        points = frontier.gaussian_points(target, s, jnp.linspace(s, 1, 21))
        above = frontier.excess(points, frontier.gaussian_frontier(target, s))
        np.testing.assert_allclose(above.high, 0, atol=1e-10)
        np.testing.assert_array_equal(above.low, above.high)
        # The excess is cut off at zero, so ask from the other side too: no point lies below the frontier.
        best = frontier.gaussian_frontier(target, s).distortion(np.sqrt(points.squared_w2.low)).low
        np.testing.assert_allclose(points.mse, best, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eigenvalues", "table"),
    [
        ([0.01, 1.0], {0.0: 1.25, 0.3: 1.47, 0.5: 1.43, 0.7: 0.62}),
        (
            0.25 * 4096 / np.sum(1 / np.arange(1, 4097)) / np.arange(1, 4097),
            {0.1: 6.66, 0.3: 2.79, 0.5: 1.12, 0.7: 0.24},
        ),
    ],
)
def test_anisotropic_excess_has_the_known_values(x64, eigenvalues, table):
    target = gaussian(eigenvalues)
    for s, percent in table.items():
        points = frontier.gaussian_points(target, s, jnp.linspace(s, 1, 801))
        largest = 100 * frontier.excess(points, frontier.gaussian_frontier(target, s)).high.max()
        assert round(float(largest), 2) == percent


def test_the_chord_is_on_the_frontier_for_every_covariance(x64):
    rng = np.random.default_rng(0)
    for n in (2, 5, 12):
        root = rng.normal(size=(n, n))
        target = Gaussian(rng.normal(size=(1, n, 1)), root @ root.T / n)
        s, r = rng.uniform(0, 0.9), np.linspace(0, 1, 11)[:, None]
        gain = (1 - r) * np.asarray(target.gain(s, s)) + r * np.asarray(target.gain(s, 1.0))
        lam = target.eigenvalues
        q = (1 - s) ** 2 + s**2 * lam
        mse = (lam - 2 * gain * s * lam + gain**2 * q).mean(-1)
        squared = ((np.sqrt(lam) - gain * np.sqrt(q)) ** 2).mean(-1)
        above = frontier.excess(
            Points(mse=mse, squared_w2=Interval.exactly(squared)), frontier.gaussian_frontier(target, s)
        )
        np.testing.assert_allclose(
            mse / frontier.gaussian_frontier(target, s).distortion(np.sqrt(squared)).low, 1, atol=1e-10
        )
        np.testing.assert_allclose(above.high, 0, atol=1e-10)
        # The function of that name has these gains.
        x = jnp.asarray(rng.normal(size=(1, n, 1)))
        moved = target.basis @ (gain[3] * (target.basis.T @ np.ravel(x - s * target.mean)))
        np.testing.assert_allclose(chord(target.average_field, x, s, 0.3).ravel(), np.ravel(target.mean) + moved)


def test_even_lookaheads_are_uniform_in_perception(x64):
    target = gaussian([0.3, 0.3])
    for s in (0.0, 0.4, 0.9):
        times = frontier.even_lookaheads(s, 9, 0.3)
        assert (times[0], times[-1]) == pytest.approx((s, 1.0), abs=1e-12)
        w2 = np.sqrt(target.squared_w2(s, jnp.asarray(times)))
        np.testing.assert_allclose(w2, float(target.p_star(s)) * np.linspace(1, 0, 9), atol=1e-7)


def test_excess_of_intervals_contains_that_of_every_value_inside():
    plane = Frontier(mmse=1.0, squared_p_star=Interval(np.asarray(0.25), np.asarray(0.36), 0.01, 0.01), mmse_error=0.01)
    points = Points(
        mse=np.array([1.2]), mse_error=np.array([0.02]), squared_w2=Interval(np.array([0.04]), np.array([0.09]))
    )
    above = frontier.excess(points, plane)
    assert above.low == pytest.approx(1.2 / (1 + 0.4**2) - 1)
    assert above.high == pytest.approx(1.2 / (1 + 0.2**2) - 1)
    # At the high end D moves by .2 / .5 times the error of P*^2; the mean squared error and the MMSE add theirs.
    best = 1.04
    parts = 0.02 / best, 1.2 / best**2 * 0.4 * 0.01, 1.2 / best**2 * 0.01
    assert above.high_error == pytest.approx(np.linalg.norm(parts), rel=0.03)
    hidden = frontier.excess(points, Frontier(mmse=1.0, squared_p_star=plane.squared_p_star, floor=0.05))
    assert np.isnan(hidden.high)


def test_assignment_agrees_with_gaussian_w2_and_reports_its_floor():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 800, 2))
    floor = frontier.assignment_squared_w2(b, c)
    assert 0 < floor < 0.03
    assert frontier.assignment_squared_w2(2 * a + 1, b) - floor == pytest.approx(2.0, rel=0.08)
    assert frontier.assignment_squared_w2(a, a[::-1]) == 0
    line = np.arange(6.0)[:, None]
    assert frontier.assignment_squared_w2(line, line[::-1] + 3) == pytest.approx(9.0)


def line_of_the_modes(s, r):
    """MMSE, P*^2, and MSE and W2^2 at t = s + r (1 - s), of the reference mixture, by quadrature.

    Sums over both coordinates, as the reference has them. Along the line between the modes the target is a mixture
    at +-half, across it a Gaussian, independent of each other: the flow is increasing in either (it matches
    quantiles), so the couplings with D_{s,1} are optimal.
    """
    half, variance = np.sqrt(5) / 2, 0.35**2
    q = (1 - s) ** 2 + s**2 * variance
    y = np.linspace(-s * half - 8 * np.sqrt(q), 0, 100_001)  # the other half is its mirror image

    def log_cdf(y, t):
        sd = np.sqrt((1 - t) ** 2 + t**2 * variance)
        return np.logaddexp(norm.logcdf(y, t * half, sd), norm.logcdf(y, -t * half, sd))

    def flow(t):
        z = np.linspace(-t * half - 8.5 * np.sqrt((1 - t) ** 2 + t**2 * variance), 0, 100_001)
        return np.interp(log_cdf(y, s), log_cdf(z, t), z)

    def mean(values):
        return np.trapezoid((norm.pdf(y, s * half, np.sqrt(q)) + norm.pdf(y, -s * half, np.sqrt(q))) * values, y)

    share, wiener, t = 1 / (1 + np.exp(-2 * y * s * half / q)), s * variance / q, s + r * (1 - s)
    ends = half * (2 * share - 1) * (1 - s * wiener) + wiener * y, flow(1.0)
    gains = wiener, np.sqrt(variance / q)
    middle = y + (1 - s) * (flow(t) - y) / (t - s)
    gain = 1 + (np.sqrt(((1 - t) ** 2 + t**2 * variance) / q) - 1) / r
    assert np.all(np.diff(middle) > 0)
    from_first, from_last = (
        mean((middle - end) ** 2) + (gain - g) ** 2 * q for end, g in zip(ends, gains, strict=True)
    )
    between = (2 * half * (1 - s) ** 2 / q) ** 2 * mean(share * (1 - share))
    mmse = 2 * (1 - s) ** 2 * variance / q + between
    return mmse, mean((ends[1] - ends[0]) ** 2) + (gains[1] - gains[0]) ** 2 * q, mmse + from_first, from_last


@pytest.mark.slow
@pytest.mark.parametrize(("s", "first", "last"), [(0.3, 1.186, 1.721), (0.5, 0.618, 0.760), (0.7, 0.175, 0.203)])
def test_reference_mixture_end_points(s, first, last):
    """The known numbers are Monte Carlo, and 2.2 to 2.4 % low at s = .3; the quadrature is met to a few permille."""
    _, x = noisy(modes(), s, 20_000)
    estimates = modes().denoise_along(x, s, jnp.array([s, s + 0.6 * (1 - s), 1.0]))
    mmse, error = modes().mmse(jax.random.key(5), s, 20_000)
    exact, squared_p_star, middle, squared_w2 = line_of_the_modes(s, 0.6)
    assert abs(2 * mmse - exact) < 4 * 2 * error < 0.02 * exact
    for pair, value in (((0, 2), squared_p_star), ((0, 1), middle - exact), ((1, 2), squared_w2)):
        distances = 2 * np.square(estimates[pair[0]] - estimates[pair[1]]).mean((1, 2, 3))
        assert abs(distances.mean() - value) < 4 * distances.std() / np.sqrt(len(x))
    assert (exact, exact + squared_p_star) == pytest.approx((first, last), rel=0.025)


@pytest.mark.parametrize(("s", "percent"), [(0.3, 3.201), (0.5, 3.944), (0.7, 0.596)])
def test_reference_mixture_lies_above_its_frontier_by_what_quadrature_says(s, percent):
    mmse, squared_p_star, mse, squared_w2 = line_of_the_modes(s, 0.6)
    points = Points(mse=np.array([mse]), squared_w2=Interval.exactly(np.array([squared_w2])))
    plane = Frontier(mmse=mmse, squared_p_star=Interval.exactly(squared_p_star))
    assert 100 * frontier.excess(points, plane).low == pytest.approx(percent, abs=0.002)


@functools.cache
def reference_curve():
    """Its exact curve at s = .5 by assignment, with the estimates: t = s, two in the middle, t = 1."""
    s, n = 0.5, 1200
    x1, x = noisy(modes(), s, n)
    estimates = modes().denoise_along(x, s, s + (1 - s) * jnp.array([0, 0.25, 0.45, 1]))
    first, second = (modes().sample(jax.random.key(seed), n, stratified=True) for seed in (7, 8))
    return s, estimates, *frontier.assignment_curve(estimates, x1, estimates[0], first, second)


@pytest.mark.slow
def test_reference_mixture_curve_lies_a_little_above_the_frontier():
    _, _, points, plane = reference_curve()
    assert 2 * plane.floor == pytest.approx(0.007, abs=0.004)
    # Three of its standard deviations over seeds (.0066): far more than the floor.
    assert 2 * plane.squared_p_star.low == pytest.approx(line_of_the_modes(0.5, 0.5)[1], abs=0.02)
    above = 100 * frontier.excess(points, plane).high
    assert np.isnan(above[-1])  # perfect perception is below the floor
    assert np.all((above[1:-1] > 0.4) & (above[1:-1] < 4.7))
    assert abs(above[0]) < 0.2


def test_moments_give_w2_between_gaussians_and_a_bound_below_it_otherwise():
    root = np.random.default_rng(0).normal(size=(4, 4))
    a, scale = root @ root.T, np.diag([0.5, 1, 2, 3.0])
    squared = squared_w2(np.zeros(4), a, np.ones(4), scale @ a @ scale)  # the map `scale` is optimal
    assert squared == pytest.approx(4 + np.trace((scale - np.eye(4)) @ a @ (scale - np.eye(4))))
    x = np.asarray(modes().sample(jax.random.key(0), 1000)).reshape(-1, 2)
    y = x.mean(0) + np.random.default_rng(1).normal(size=x.shape) @ np.linalg.cholesky(np.cov(x.T)).T
    assert squared_w2(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T)) < 0.01
    assert frontier.assignment_squared_w2(x, y) > 0.02


@pytest.mark.slow
def test_bracket_closes_on_an_isotropic_gaussian():
    target, s, n = gaussian(np.full(8, 0.3)), 0.4, 4000
    _, x = noisy_gaussian(target, s, n)
    times = jnp.array([0.4, 0.7, 1.0])
    estimates = jax.vmap(lambda t: denoise(target.average_field, x, s, t))(times)
    found = frontier.bracket(estimates, estimates[0], estimates[-1], target, (float(target.mmse(s)), 0.0))
    truth = frontier.gaussian_points(target, s, times)
    for bound, error in zip(found.points.squared_w2[:2], found.points.squared_w2[2:], strict=True):
        assert np.all(np.abs(bound - truth.squared_w2.low) < 4 * error + 1e-6)
    assert np.all(np.abs(found.points.mse - truth.mse) < 4 * found.points.mse_error + 1e-6)
    assert np.all(found.excess.high < 0.002 + 4 * found.excess.high_error)
    assert np.all(found.points.mse_error[1:] > 0)


def noisy_gaussian(target, s, n):
    x1 = target.sample(jax.random.key(0), n)
    return x1, s * x1 + (1 - s) * jax.random.normal(jax.random.key(1), x1.shape)


@pytest.mark.slow
@pytest.mark.parametrize(("s", "star", "total"), [(0.5, (0.0256, 0.0346), 6.5)])
def test_bracket_on_the_mixture_of_digits(s, star, total):
    _, x = noisy(digits(), s, 2000)
    estimates = digits().denoise_along(x, s, jnp.array([s, 1.0]))
    mmse = digits().mmse(jax.random.key(3), s, 2000)
    found = frontier.bracket(estimates, estimates[0], estimates[1], digits(), mmse)
    low, high, low_error, high_error = found.frontier.squared_p_star
    assert (low, high) == (pytest.approx(star[0], rel=0.06), pytest.approx(star[1], rel=0.03))
    assert 0 < low_error < 0.03 * low
    assert 0 < high_error < 0.03 * high
    assert 100 * found.excess.high[1] == pytest.approx(total, abs=1.2)
    np.testing.assert_allclose(found.excess.low, 0, atol=1e-9)
    assert found.points.mse[0] == pytest.approx(mmse[0])


@pytest.mark.slow
def test_bracket_and_assignment_agree_in_two_dimensions():
    s, estimates, points, plane = reference_curve()
    found = frontier.bracket(estimates, estimates[0], estimates[-1], modes(), modes().mmse(jax.random.key(2), s))
    for bounds, value in (
        (found.frontier.squared_p_star, plane.squared_p_star.low),
        (found.points.squared_w2, points.squared_w2.low),
    ):
        assert np.all(bounds.low - 3 * bounds.low_error - plane.floor <= value)
        assert np.all(value <= bounds.high + 3 * bounds.high_error + plane.floor)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: frontier.assignment_squared_w2(np.zeros((9, 8, 8)), np.ones((9, 8, 8))),
            "assignment in 64 dimensions",
        ),
        (lambda: frontier.assignment_squared_w2(np.zeros((9, 2)), np.ones((8, 2))), r"shapes \(9, 2\) and \(8, 2\)"),
        (lambda: frontier.assignment_squared_w2(np.zeros((1, 2)), np.ones((1, 2))), "cannot be assigned"),
        (lambda: frontier.even_lookaheads(1.0, 5), "from s = 1"),
        (lambda: frontier.even_lookaheads(-0.5, 5), "0 comes before -0.5"),
        (
            lambda: frontier.bracket(
                np.zeros((1, 19, 1, 2, 1)), np.zeros((19, 1, 2, 1)), np.zeros((19, 1, 2, 1)), modes(), (1.0, 0.0)
            ),
            "19 samples are too few to bracket W2 in 2 dimensions: pass at least 20",
        ),
    ],
)
def test_bad_input(act, message):
    with pytest.raises(ValueError, match=message):
        act()
