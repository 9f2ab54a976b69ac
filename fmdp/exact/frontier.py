"""The optimal distortion-perception frontier of a known target, and how far above it an estimator lies.

Let the perception P be the W2 distance between the distributions of the estimates and of the data. Then no estimator
of x1 from x_s has a mean squared error below D(P) = MMSE + [(P* - P)_+]^2, P* = W2(law of E[x1 | x_s], data) (Freirich
et al., 2021). Squared errors and squared distances are means per pixel. A distance that is known only up to bounds is
an `Interval`, and so is everything computed from it.

>>> import jax.numpy as jnp
>>> target = Gaussian(jnp.zeros((8, 8, 1)), 0.25)
>>> best = gaussian_frontier(target, s=0.5)
>>> best.distortion(jnp.array([0.0, 0.5])).low.round(4)  # at perfect perception, and at minimum error
array([0.2764, 0.2   ])
>>> points = gaussian_points(target, 0.5, jnp.array([0.5, 0.8, 1.0]))  # the lookahead at three times t
>>> bool(abs(excess(points, best).low).max() < 1e-6)  # it is optimal for this target
True
"""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from fmdp.errors import InputError, Range, kind_fault, plain
from fmdp.exact import Gaussian, GaussianMixture
from fmdp.exact.covariance import real_array
from fmdp.exact.plane import Frontier, Interval, Numbers, Points, relative_excess
from fmdp.exact.plane import excess as excess
from fmdp.exact.plane import optimal_distortion as optimal_distortion
from fmdp.exact.wasserstein import squared_w2
from fmdp.flow.times import check_times

ASSIGNMENT_DIMENSIONS = 3
VARIANCES = Range(1e-6, 1e6)  # beyond, the grid is the difference of numbers that are equal in float64
GROUPS = 20


def _one_time(s: Any) -> float:
    check_times(s)
    if np.shape(s):
        raise InputError(f"s has shape {np.shape(s)}: pass one time, as each has a frontier of its own")
    return float(s)


def gaussian_frontier(target: Gaussian, s: ArrayLike) -> Frontier:
    """The frontier of a Gaussian target at noise level 1 - s, in closed form."""
    s = _one_time(s)
    return Frontier(mmse=float(target.mmse(s)), squared_p_star=Interval.exactly(target.squared_w2(s, s)))


def gaussian_points(target: Gaussian, s: ArrayLike, times: Numbers) -> Points:
    """The points of the lookahead at the times t [T], in closed form."""
    s = _one_time(s)
    check_times(s, times)
    times = jnp.asarray(real_array("times", times), float)
    mse, squared = (np.asarray(value, np.float64) for value in (target.mse(s, times), target.squared_w2(s, times)))
    return Points(mse=mse, squared_w2=Interval.exactly(squared))


def even_lookaheads(s: ArrayLike, n: Any, variance: Any = 1.0) -> np.ndarray:
    """Times t [n] from s to 1 that are uniform in theta = 1 - P / P*: their points are evenly spaced on the frontier.

    This is exact for an isotropic Gaussian with the given variance per pixel. There, L(s, t) is linear in theta, and
    L(s, t) = 1 + (1 - s) k becomes a linear equation in t - s when the root t = s of q_t = q_s (1 + k (t - s))^2 is
    divided out. For images, with their mean variance, the grid is dense where the quality changes fastest.
    """
    s, n, variance = _one_time(s), plain(n), plain(variance)
    if s >= 1 or kind_fault(n, int) or n < 2 or kind_fault(variance, float) or VARIANCES.fault(variance):
        found = f"no even grid of n = {n} times from s = {s:g} with variance {variance}"
        raise InputError(f"{found}: needs n >= 2, s < 1, and as variance {VARIANCES.fault(-1)}")
    q = (1 - s) ** 2 + s**2 * variance
    slope = 2 * (s * variance - (1 - s))
    ends = slope / (2 * q), (math.sqrt(variance / q) - 1) / (1 - s)
    k = np.linspace(*ends, n)
    return np.clip(s + (2 * k * q - slope) / (1 + variance - k**2 * q), s, 1)


def assignment_squared_w2(a: Numbers, b: Numbers) -> float:
    """W2^2 per pixel between two samples [N, ...] of equal size, by optimal assignment; the floor is its upward bias.

    Raises:
      InputError: samples with different shapes, or with more than 3 dimensions, where the result is mostly bias.
    """
    a, b = (real_array("a sample", sample) for sample in (a, b))
    if a.shape != b.shape or a.ndim < 2 or len(a) < 2:
        raise InputError(
            f"samples of shapes {a.shape} and {b.shape} cannot be assigned: pass two of one shape [N, ...]"
        )
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if (dimensions := a.shape[1]) > ASSIGNMENT_DIMENSIONS:
        noisy = f"assignment in {dimensions} dimensions measures its own sampling error"
        raise InputError(f"{noisy}: project to at most {ASSIGNMENT_DIMENSIONS}, or use `bracket`")
    cost = np.square(a[:, None] - b[None]).sum(-1) if dimensions > 1 else np.square(np.subtract.outer(a[:, 0], b[:, 0]))
    return float(cost[linear_sum_assignment(cost)].mean() / dimensions)


def assignment_curve(
    estimates: Numbers, truth: Numbers, posterior_mean: Numbers, first: Numbers, second: Numbers
) -> tuple[Points, Frontier]:
    """The points of a curve and the optimal frontier, from samples in at most 3 dimensions.

    Args:
      estimates: [T, N, ...], of `truth` [N, ...] from its noisy versions.
      posterior_mean: [N, ...], E[x1 | x_s] for the same noisy versions.
      first, second: [N, ...], two new samples of the target, preferably stratified (`GaussianMixture.sample`).
        Distances are to the first one. The distance between the two is the sampling floor, which is subtracted and
        reported.
    """
    estimates, truth, posterior_mean = _samples(estimates=estimates, truth=truth, posterior_mean=posterior_mean)
    axes = tuple(range(1, truth.ndim))
    floor = assignment_squared_w2(first, second)
    error = np.square(truth - posterior_mean).mean(axes)
    # E||x1 - D||^2 = MMSE + E||D - E[x1|x_s]||^2 has a smaller variance than the squared error itself.
    added = np.square(estimates - posterior_mean).mean(tuple(a + 1 for a in axes))
    squared = np.array([assignment_squared_w2(estimate, first) for estimate in estimates])
    mmse = error.mean()
    points = Points(
        mse=mmse + added.mean(-1),
        mse_error=added.std(-1, ddof=1) / math.sqrt(len(truth)),
        squared_w2=Interval.exactly(np.maximum(squared - floor, 0)),
    )
    squared_p_star = max(assignment_squared_w2(posterior_mean, first) - floor, 0.0)
    frontier = Frontier(
        mmse=float(mmse),
        mmse_error=float(error.std(ddof=1) / math.sqrt(len(truth))),
        squared_p_star=Interval.exactly(squared_p_star),
        floor=floor,
    )
    return points, frontier


def _samples(**given: Any) -> list[np.ndarray]:
    """Estimates [T, N, ...] and, after them, arrays [N, ...] that belong to them, as finite numbers in float64."""
    arrays = {name: real_array(name, values) for name, values in given.items()}
    first, *others = arrays.values()
    if first.ndim < 3 or any(other.shape != first.shape[1:] for other in others) or len(others[0]) < 2:
        found = ", ".join(f"{name} of shape {array.shape}" for name, array in arrays.items())
        raise InputError(f"{found}: pass estimates [T, N, ...] and the others [N, ...], N from 2")
    return list(arrays.values())


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """The result of `bracket`: points, frontier and the relative excess of the points, with joint standard errors."""

    points: Points
    frontier: Frontier
    excess: Interval


def bracket(
    estimates: Numbers,
    posterior_mean: Numbers,
    transported: Numbers,
    target: Gaussian | GaussianMixture,
    mmse: tuple[float, float],
) -> Bracket:
    """Points and frontier in any dimension; each distance has two bounds, which are rigorous up to Monte Carlo error.

    The lower bound is Gelbrich's, from means and covariances, which are exact for the target. The upper bounds are
    couplings on the same noisy images: P*^2 <= E||D_{s,s} - D_{s,1}||^2 and W2^2(D, p) <= E||D - D_{s,1}||^2, because
    D_{s,1} has the distribution of the data. Sample moments bias the lower bound; a jackknife over groups removes this
    bias and gives all errors.

    Args:
      estimates: [T, N, ...], the estimators to place (learned, exact, chord, ...) at N noisy images.
      posterior_mean, transported: [N, ...], the *exact* D_{s,s} and D_{s,1} at the same noisy images.
      target: its mean and covariance are used.
      mmse: the exact MMSE per pixel and its standard error (`GaussianMixture.mmse`, or `Gaussian.mmse` and 0).

    Raises:
      InputError: fewer than ten samples per dimension, too few for sample covariances.
    """
    estimates, anchor, ideal = _samples(estimates=estimates, posterior_mean=posterior_mean, transported=transported)
    count, n = len(anchor), anchor[0].size
    if n != np.size(target.mean):
        raise InputError(f"samples of {n} pixels for a target of {np.size(target.mean)}: pass samples of that target")
    if count < 10 * n:
        raise InputError(f"{count} samples are too few to bracket W2 in {n} dimensions: pass at least {10 * n}")
    curves = np.concatenate([anchor[None], estimates]).reshape(len(estimates) + 1, count, n)
    ideal = ideal.reshape(count, n)
    groups = np.array_split(np.arange(count), GROUPS)
    sums = [_moments(curves[:, group], ideal[group]) for group in groups]
    sizes = np.array([len(group) for group in groups])
    total = [sum(parts) for parts in zip(*sums, strict=True)]
    mean, covariance = _target_moments(target)

    def distances(moments, size) -> np.ndarray:
        first, second, added, coupled = (moment / size for moment in moments)
        cov = (second - first[..., None] * first[:, None]) * size / (size - 1)
        return np.stack([added, squared_w2(mean, covariance, first, cov) / n, coupled])

    partial = np.stack(
        [
            distances([t - p for t, p in zip(total, parts, strict=True)], count - size)
            for parts, size in zip(sums, sizes, strict=True)
        ]
    )
    # The bias of the sample moments is removed before taking square roots, which would amplify it near P = 0.
    corrected = GROUPS * distances(total, count) - (GROUPS - 1) * partial.mean(0)
    value = _statistics(corrected, mmse[0])
    moved = np.stack([_statistics(corrected + deviation, mmse[0]) for deviation in partial - partial.mean(0)])
    variance = (GROUPS - 1) * moved.var(0) + (_statistics(corrected, sum(mmse)) - value) ** 2
    mse, low, high, least, most = value[:, 1:]
    mse_error, *errors = np.sqrt(variance)[:, 1:]
    star = Interval(*value[1:3, 0], *np.sqrt(variance)[1:3, 0])
    return Bracket(
        points=Points(mse=mse, mse_error=mse_error, squared_w2=Interval(low, high, *errors[:2])),
        frontier=Frontier(mmse=mmse[0], mmse_error=mmse[1], squared_p_star=star),
        excess=Interval(least, most, *errors[2:]),
    )


def _moments(curves: np.ndarray, ideal: np.ndarray):
    """Sums over samples for each curve: of x, x x', and the squared distances to the posterior mean and to D_{s,1}."""
    return (
        curves.sum(1),
        np.einsum("tni,tnj->tij", curves, curves, optimize=True),
        np.square(curves - curves[0]).mean(-1).sum(-1),
        np.square(curves - ideal).mean(-1).sum(-1),
    )


def _statistics(distances: np.ndarray, mmse: float) -> np.ndarray:
    """For each curve: mean squared error, both bounds of its squared W2, and both bounds of its relative excess."""
    added, low, high = distances
    low, mse = np.clip(low, 0, high), mmse + added
    least = relative_excess(mse, low, mmse, high[0])
    most = relative_excess(mse, high, mmse, low[0])
    return np.maximum(np.stack([mse, low, high, least, most]), 0)


def _target_moments(target: Gaussian | GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(target, GaussianMixture):
        return target.mean, target.covariance
    basis = np.eye(len(target.eigenvalues)) if target.basis is None else target.basis
    return np.ravel(target.mean), basis * target.eigenvalues @ basis.T
