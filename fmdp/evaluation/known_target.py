"""Comparison of a learned field with the exact one, for images from a known distribution.

The exact lookahead and chord, the learned ones, the baselines and the optimal frontier are compared on the same noisy
images. The frontier is in closed form for a Gaussian, found by optimal assignment in at most three dimensions, and
bracketed otherwise (`fmdp.exact.frontier`).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.decomposition import PCA

from fmdp.evaluation.denoising import Sweep
from fmdp.evaluation.results import (
    Bounds,
    FieldError,
    FrontierPoint,
    KnownTargetCurve,
    KnownTargetLevel,
    KnownTargetPoint,
    LocatedCurve,
    StationaryLaw,
    TwoComponentsLevel,
)
from fmdp.exact import Gaussian, GaussianMixture, frontier
from fmdp.exact.pnp_stationary import fixed_point, stationary_covariance
from fmdp.flow.average_field import denoise
from fmdp.types import PRNGKey

Target = Gaussian | GaussianMixture
ASSIGNED = 1000  # samples put through optimal assignment, whose time grows with their cube
FRONTIER_POINTS = 50
MMSE_SAMPLES = 20_000


def compare_to_exact(target: Target, clean: np.ndarray, sweeps: list[Sweep], key: PRNGKey) -> list[KnownTargetLevel]:
    """Every knob of a sweep, and those of the exact field, in the plane of MSE and squared W2.

    Args:
      target: the distribution that the clean images were drawn from.
      clean: [n, H, W, C], the images of the sweeps.
      sweeps: of the learned field; the first draw of the noise is used.
      key: of fresh samples of the target.

    Returns:
      One level per sweep. Squared distances are W2^2 per pixel; the excess is None within the sampling floor.
    """
    return [_compare_level(target, clean, swept, jax.random.fold_in(key, index)) for index, swept in enumerate(sweeps)]


def _compare_level(target: Target, clean: np.ndarray, swept: Sweep, key: PRNGKey) -> KnownTargetLevel:
    lookahead = swept.curves["lookahead"]
    times = swept.s + lookahead.settings * (1 - swept.s)
    exact = exact_lookahead(target, swept.noisy[0], swept.s, times)
    share = lookahead.settings.astype(np.float32)[:, None, None, None, None]
    chord = (1 - share) * exact[0] + share * exact[-1]

    def locate(field: str, knob: str, settings: np.ndarray, estimates: np.ndarray):
        points, optimum, excess = locate_points(target, clean, estimates, exact, swept.s, key)
        return KnownTargetCurve(field=field, knob=knob, points=_rows(settings, points, excess)), optimum

    first, best = locate("exact", "lookahead", lookahead.settings, exact)
    others = [locate("exact", "chord", lookahead.settings, chord)]
    others += [locate("learned", name, curve.settings, curve.restored[:, 0]) for name, curve in swept.curves.items()]
    true_step, step = exact - swept.noisy[0], lookahead.restored[:, 0] - swept.noisy[0]
    axes = (1, 2, 3, 4)
    error = np.sqrt(np.square(step - true_step).sum(axes) / np.square(true_step).sum(axes))
    return KnownTargetLevel(
        noise_level=1 - swept.s,
        s=swept.s,
        mmse=best.mmse,
        squared_p_star=_bounds(best.squared_p_star),
        floor=best.floor,
        frontier=_frontier_rows(best),
        field_error=[FieldError(t=float(t), relative=float(e)) for t, e in zip(times, error, strict=True)],
        curves=[first, *(curve for curve, _ in others)],
    )


def exact_lookahead(target: Target, noisy: np.ndarray, s: float, times: np.ndarray) -> np.ndarray:
    """D_{s,t} of the exact field at noisy [n, H, W, C] for all times, [T, n, H, W, C]."""
    x = jnp.asarray(noisy)
    if isinstance(target, GaussianMixture):
        return np.asarray(target.denoise_along(x, s, times))
    return np.asarray(_lookahead(target, x, s, jnp.asarray(times, x.dtype)))


@jax.jit
def _lookahead(target: Gaussian, x: Array, s: Array | float, times: Array) -> Array:
    return jax.vmap(lambda t: denoise(target.average_field, x, s, t))(times)


def locate_points(
    target: Target, clean: np.ndarray, estimates: np.ndarray, exact: np.ndarray, s: float, key: PRNGKey
) -> tuple[frontier.Points, frontier.Frontier, frontier.Interval]:
    """Points, frontier and relative excess of estimates [T, m, H, W, C] of the first m clean images.

    Args:
      target: their distribution.
      clean: [n, H, W, C], n >= m.
      estimates: of any estimator.
      exact: the exact lookahead [.., n, H, W, C] from t = s to t = 1, at the same noisy images.
      s: their time.
      key: of fresh samples.
    """
    count = estimates.shape[1]
    if clean[0].size <= frontier.ASSIGNMENT_DIMENSIONS:
        count = min(count, ASSIGNED)
        *keys, mmse_key = jax.random.split(key, 3)
        fresh = (_fresh(target, key, count) for key in keys)
        points, optimum = frontier.assignment_curve(estimates[:, :count], clean[:count], exact[0, :count], *fresh)
        if isinstance(target, GaussianMixture):
            # The known posterior variance reduces the spread of the errors, and all images can be used.
            mmse, mmse_error = target.mmse(mmse_key, s, MMSE_SAMPLES)
            added = np.square(estimates - exact[0, : estimates.shape[1]]).mean((2, 3, 4))
            spread = added.std(1, ddof=1) / np.sqrt(added.shape[1])
            points = dataclasses.replace(points, mse=mmse + added.mean(1), mse_error=np.hypot(spread, mmse_error))
            optimum = dataclasses.replace(optimum, mmse=mmse, mmse_error=mmse_error)
        return points, optimum, frontier.excess(points, optimum)
    if isinstance(target, GaussianMixture):
        found = frontier.bracket(estimates, exact[0, :count], exact[-1, :count], target, target.mmse(key, s))
        return found.points, found.frontier, found.excess
    mmse = float(target.mmse(s))
    found = frontier.bracket(estimates, exact[0, :count], exact[-1, :count], target, (mmse, 0.0))
    # Gelbrich's bound is attained by Gaussian estimates, and those of a field learned on a Gaussian nearly are.
    low, _, error, _ = found.points.squared_w2
    points = frontier.Points(
        mse=found.points.mse, mse_error=found.points.mse_error, squared_w2=frontier.Interval.exactly(low, error)
    )
    optimum = frontier.gaussian_frontier(target, s)
    return points, optimum, frontier.excess(points, optimum)


def _fresh(target: Target, key: PRNGKey, count: int) -> Array:
    return (
        target.sample(key, count, stratified=True) if isinstance(target, GaussianMixture) else target.sample(key, count)
    )


def _rows(settings: np.ndarray, points: frontier.Points, excess: frontier.Interval) -> list[KnownTargetPoint]:
    errors = np.broadcast_to(points.mse_error, points.mse.shape)
    return [
        KnownTargetPoint(
            setting=float(setting),
            mse=float(points.mse[i]),
            mse_error=float(errors[i]),
            squared_w2=_bounds(points.squared_w2, i),
            excess=_bounds(excess, i),
        )
        for i, setting in enumerate(settings)
    ]


def _bounds(interval: frontier.Interval, index: int | None = None) -> Bounds:
    """The interval, or its entry at an index, with None in place of numbers that are not finite."""
    values = {}
    for name, value in interval._asdict().items():
        number = float(value if index is None or np.ndim(value) == 0 else value[index])
        values[name] = number if np.isfinite(number) else None
    return Bounds(**values)


def _frontier_rows(optimum: frontier.Frontier) -> list[FrontierPoint]:
    """The optimal frontier from perfect perception to that of the MMSE estimate."""
    perception = np.linspace(0, np.sqrt(float(optimum.squared_p_star.high)), FRONTIER_POINTS)
    least = optimum.distortion(perception)
    return [
        FrontierPoint(perception=float(p), mse=float(low), mse_high=float(high))
        for p, low, high in zip(perception, least.low, least.high, strict=True)
    ]


def two_components(
    images: np.ndarray, components: int, noise_levels: Sequence[float], key: PRNGKey
) -> list[TwoComponentsLevel]:
    """Bracket and assignment side by side in two dimensions, where both can be computed.

    A mixture is fitted to the first two principal components of the images, scaled to a mean variance of 1/4. Both
    methods then locate the exact lookahead of the mixture at each noise level.
    """
    scores = PCA(2).fit_transform(images.reshape(len(images), -1))
    points = (scores * 0.5 / np.sqrt(np.square(scores).mean())).reshape(-1, 1, 1, 2)
    target = GaussianMixture.fit(points, components, ridge=1e-3)
    levels = []
    for index, noise_level in enumerate(noise_levels):
        s, times = 1 - noise_level, 1 - noise_level * (1 - np.linspace(0, 1, 7)) ** 2
        clean_key, noise_key, *fresh_keys, mmse_key = jax.random.split(jax.random.fold_in(key, index), 5)
        clean = target.sample(clean_key, ASSIGNED, stratified=True)
        noisy = s * clean + noise_level * jax.random.normal(noise_key, clean.shape)
        exact = exact_lookahead(target, np.asarray(noisy), s, times)
        fresh = (target.sample(fresh_key, ASSIGNED, stratified=True) for fresh_key in fresh_keys)
        placed, optimum = frontier.assignment_curve(exact, clean, exact[0], *fresh)
        found = frontier.bracket(exact, exact[0], exact[-1], target, target.mmse(mmse_key, s))
        levels.append(
            TwoComponentsLevel(
                noise_level=noise_level,
                times=times.tolist(),
                mmse=found.frontier.mmse,
                floor=optimum.floor,
                assignment=_located(placed, optimum, frontier.excess(placed, optimum)),
                bracket=_located(found.points, found.frontier, found.excess),
            )
        )
    return levels


def _located(points: frontier.Points, optimum: frontier.Frontier, excess: frontier.Interval) -> LocatedCurve:
    indices = range(len(points.mse))
    return LocatedCurve(
        squared_p_star=_bounds(optimum.squared_p_star),
        squared_w2=[_bounds(points.squared_w2, i) for i in indices],
        excess=[_bounds(excess, i) for i in indices],
    )


def plug_and_play_law(
    target: Gaussian, s: float, key: PRNGKey, points: int = 7, chains: int = 2000
) -> list[StationaryLaw]:
    """The limit of plug-and-play at a fixed (s, t), in closed form and by running it, as the lookahead grows.

    The task hides the right half of the image; the step is 1 on 1/2 ||H x - y||^2.

    Args:
      target: the prior.
      s: the fixed time.
      key: of the image to restore and of the renoising.
      points: lookaheads from s to 1.
      chains: independent runs from which the stationary variance is taken.

    Returns:
      For each t: `shift`, ||x* - mu||^2 of the fixed point without renoising over ||x_true - mu||^2; `variance`, the
      trace of the stationary covariance with renoising over that of the prior; and `free_variance`, the same without
      any measurement.
    """
    shape = np.shape(target.mean)
    mask = np.ones(shape)
    mask[:, shape[1] // 2 :] = 0
    H = np.diag(mask.ravel())
    image_key, noise_key = jax.random.split(key)
    clean = target.sample(image_key, 1)[0]
    mean, total = jnp.asarray(target.mean, clean.dtype), float(np.sum(target.eigenvalues))

    settle = partial(_settle, target, clean, noise_key, s)

    def energy(x):
        return float(jnp.sum((x - mean) ** 2) / jnp.sum((clean - mean) ** 2))

    rows = []
    for t in s + (1 - s) * np.linspace(0, 1, points):
        fixed = fixed_point(target, H, mask.ravel() * np.ravel(clean), s, t, 1.0)
        start = jnp.zeros((chains, *shape))
        row = {"t": float(t), "shift": energy(fixed), "shift_run": energy(settle(start[0], mask, t, 0.0))}
        for name, shown in (("variance", mask), ("free_variance", np.zeros(shape))):
            covariance = stationary_covariance(target, np.diag(shown.ravel()), s, t, 1.0)
            row[name] = float(np.trace(covariance) / total)
            row[f"{name}_run"] = float(settle(start, shown, t, 1.0).var(0).sum() / total)
        rows.append(StationaryLaw(**row))
    return rows


@jax.jit
def _settle(
    target: Gaussian, clean: Array, noise_key: PRNGKey, s: Any, x: Array, mask: Any, t: Any, noise: Any
) -> Array:
    """Where plug-and-play at the times (s, t) ends from x after 400 steps, with renoising scaled by `noise`."""

    def step(x, key):
        z = x - mask * (x - clean)
        eps = noise * jax.random.normal(key, x.shape)
        return denoise(target.average_field, s * z + (1 - s) * eps, s, t), None

    return jax.lax.scan(step, x, jax.random.split(noise_key, 400))[0]
