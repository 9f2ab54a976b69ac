"""The denoising sweep: both knobs at every noise level, measured on held-out images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.average_field import denoise, lookahead_time
from fmdp.interpolant import interpolate
from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features
from fmdp.types import AverageField, PRNGKey

KNOBS = ("lookahead", "chord")
STEP = 0.02  # the first step of the lookahead by which its continuity at t = s is judged
REFERENCE = 2000  # real images behind the perception measures, at most


class Sweep(NamedTuple):
    """Restorations of n images under several draws of the noise at one noise level.

    Attributes:
      s: the time of the noisy images, 1 - noise level.
      r: settings of the knobs, [points].
      noisy: x_s, [draws, n, H, W, C].
      restored: by knob, [points, draws, n, H, W, C].
      step: D_{s,t} at t = s + STEP, [draws, n, H, W, C].
    """

    s: float
    r: np.ndarray
    noisy: np.ndarray
    restored: dict[str, np.ndarray]
    step: np.ndarray


def knob_grid(points: int) -> np.ndarray:
    """Settings r of a knob from 0 to 1, dense near 1, where quality moves fastest in t."""
    return 1 - (1 - np.linspace(0, 1, points)) ** 2


@jax.jit
def _restore(field: AverageField, x: Array, s: Array, r: Array) -> tuple[Array, Array]:
    """D_{s, s + r (1 - s)}(x) for every r, and the chord at the same r, whose ends are the first and last of them."""
    lookahead = jax.lax.map(lambda r: denoise(field, x, s, lookahead_time(s, r)), r)
    share = r[:, None, None, None, None]
    return lookahead, (1 - share) * lookahead[0] + share * lookahead[-1]


def sweep(field: AverageField, images: np.ndarray, noise_level: float, config: ConfigDict, key: PRNGKey) -> Sweep:
    """Both knobs over their whole range on images [n, H, W, C] at one noise level; all settings in one compiled call.

    Args:
      field: an average field that is a pytree, such as a `jax.tree_util.Partial`.
      config: config.evaluate.
      key: of the noise; every draw of every image has noise of its own.
    """
    s = jnp.float32(1 - noise_level)
    r = knob_grid(config.points)
    # The small first step stands last but one, so that the ends of the grid stay its ends.
    settings = jnp.asarray(np.insert(r, -1, min(STEP / noise_level, 1.0)), jnp.float32)
    noise = jax.random.normal(key, (config.draws, *images.shape))
    noisy = interpolate(noise, jnp.asarray(images), s)
    flat = noisy.reshape(-1, *images.shape[1:])
    parts = []
    for start in range(0, len(flat), config.batch_size):
        part = flat[start : start + config.batch_size]
        padded = jnp.pad(part, ((0, config.batch_size - len(part)), (0, 0), (0, 0), (0, 0)))
        parts.append([np.asarray(x)[:, : len(part)] for x in _restore(field, padded, s, settings)])
    by_knob = [np.concatenate(x, 1).reshape(len(settings), *noisy.shape) for x in zip(*parts, strict=True)]
    restored = {knob: np.delete(x, -2, axis=0) for knob, x in zip(KNOBS, by_knob, strict=True)}
    return Sweep(float(s), r, np.asarray(noisy), restored, by_knob[0][-2])


@jax.jit
def _perception(restored: Array, real: Array, clean: Array, width: Array) -> dict[str, Array]:
    """Perception measures of [k, n, H, W, C] restorations, [k] each."""
    real_features, clean_features = features(real), features(clean)

    def one(x):
        x = features(x)
        return {
            "variance_ratio": perception.variance_ratio(x, clean_features),
            "kernel_distance": perception.kernel_distance(x, real_features, width),
            "frechet_distance": perception.frechet_distance(x, real_features),
        }

    return jax.lax.map(one, restored)


@jax.jit
def _distortion(restored: Array, clean: Array) -> dict[str, Array]:
    """Distortion measures of [..., n, H, W, C] restorations, [..., n] each."""
    return {name: getattr(distortion, name)(restored, clean) for name in ("mse", "psnr", "ssim")}


def measure(restored: np.ndarray, clean: Array, real: np.ndarray, width: Array) -> list[dict[str, float]]:
    """The measures of [points, draws, n, H, W, C] restorations of clean [n, H, W, C], one dict a point.

    Of every distortion measure: its mean, its standard deviation over images (`_std`) and that of the mean over the
    draws of the noise (`_draw_std`). Of every perception measure, which needs a set: its mean and `_draw_std`.
    """
    points, draws = restored.shape[:2]
    per_image = jax.device_get(_distortion(restored, clean))
    per_set = jax.device_get(_perception(restored.reshape(-1, *restored.shape[2:]), real, clean, width))
    rows: list[dict[str, float]] = [{} for _ in range(points)]
    for point, row in enumerate(rows):
        for name, value in per_image.items():
            row[name] = float(value[point].mean())
            row[f"{name}_std"] = float(value[point].mean(0).std())
            row[f"{name}_draw_std"] = float(value[point].mean(1).std())
        for name, value in per_set.items():
            over_draws = value.reshape(points, draws)[point]
            row[name], row[f"{name}_draw_std"] = float(over_draws.mean()), float(over_draws.std())
    return rows


def floors(real: np.ndarray, size: int, width: Array, resamplings: int, key: PRNGKey) -> dict[str, dict[str, float]]:
    """What each perception measure comes to between real images and real images, with its 95 % interval."""
    vectors = features(jnp.asarray(real))
    measures = {
        "kernel_distance": lambda x, y: perception.kernel_distance(x, y, width),
        "frechet_distance": perception.frechet_distance,
        "variance_ratio": perception.variance_ratio,
    }
    return {
        name: perception.floor(measure, key, vectors, size, resamplings)._asdict() for name, measure in measures.items()
    }


def evaluate(field: AverageField, split: Any, config: ConfigDict, key: PRNGKey) -> tuple[dict[str, Any], list[Sweep]]:
    """The denoising sweep over config.noise_levels on the test images of a split.

    Perception is measured against training images, never against the clean versions of the restored ones.

    Returns:
      What goes into summary.json ("denoise", "floor", "images", "draws"), and the restorations.
    """
    images, clean = split.test, jnp.asarray(split.test)
    real = np.random.default_rng(0).permutation(split.train)[:REFERENCE]
    width = perception.median_distance(features(jnp.asarray(real)))
    curves, sweeps = [], []
    for index, noise_level in enumerate(config.noise_levels):
        swept = sweep(field, images, noise_level, config, jax.random.fold_in(key, index))
        first = float(distortion.mse(jnp.asarray(swept.restored["lookahead"][0]), clean).mean())
        step = float(distortion.mse(jnp.asarray(swept.step), clean).mean())
        for knob in KNOBS:
            times = swept.s + swept.r * (1 - swept.s)
            rows = measure(swept.restored[knob], clean, real, width)
            points = [{"t": float(t), "r": float(r)} | row for t, r, row in zip(times, swept.r, rows, strict=True)]
            curves.append({"noise_level": noise_level, "s": swept.s, "knob": knob, "points": points})
        curves[-2]["first_step"] = {"t": swept.s + STEP, "relative_mse_change": step / first - 1}
        sweeps.append(swept)
    floor = floors(np.concatenate([images, real]), len(clean), width, config.bootstrap, key)
    return {"images": len(clean), "draws": config.draws, "denoise": curves, "floor": floor}, sweeps
