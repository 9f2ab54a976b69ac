"""The denoising sweep: both knobs at every noise level, measured on held-out images."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from ml_collections import ConfigDict

from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.evaluation import network_metrics
from fmdp.evaluation.calibration import Calibration
from fmdp.evaluation.network_metrics import NetworkMetrics
from fmdp.flow import posterior_sampling, residuals
from fmdp.flow.average_field import denoise, lookahead_time
from fmdp.flow.interpolant import interpolate
from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features
from fmdp.parallel.batching import in_batches, single_device
from fmdp.types import AverageField, PRNGKey

STEP = 0.02  # the first step of the lookahead by which its continuity at t = s is judged
MAX_SET_SIZE = 1500  # images on either side of a perception measure, at most: its cost grows with their square
SAMPLES = (1, 2, 4, 8)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
BUDGETS = (0.25, 0.5, 1.0)  # decibels below the minimum-error estimate, at which the calibration is tried out
RESIDUAL_TIMES = (0.05, 0.3, 0.5, 0.7, 0.9, 1.0)
RESIDUAL_IMAGES = 256


class Curve(NamedTuple):
    """One way across the plane: its settings [k], the restorations [k, draws, n, H, W, C], and what each costs.

    `evaluations` [k] counts evaluations of the field for one image; `mse` is [k, draws, n], of all images even where
    not all restorations are kept.
    """

    settings: np.ndarray
    restored: np.ndarray
    evaluations: np.ndarray
    mse: np.ndarray


class Sweep(NamedTuple):
    """Restorations of n images under several draws of the noise at one noise level.

    Attributes:
      s: the time of the noisy images, 1 - noise level.
      noisy: x_s, [draws, n, H, W, C].
      knobs: `lookahead` and `chord` at settings r; the rivals, which cost many evaluations, only of the
        first draw of the first `config.baseline_images` images.
      step: D_{s,t} at t = s + STEP, [draws, n, H, W, C].
      kept: [n], which of the measured images these are.
    """

    s: float
    noisy: np.ndarray
    knobs: dict[str, Curve]
    step: np.ndarray
    kept: np.ndarray


def setting_grid(points: int) -> np.ndarray:
    """Settings r of a knob from 0 to 1, dense near 1, where quality moves fastest in t."""
    return 1 - (1 - np.linspace(0, 1, points)) ** 2


@jax.jit
def sweep_lookaheads(field: AverageField, x: Array, s: Array, r: Array) -> Array:
    """D_{s, s + r (1 - s)}(x) for every r."""
    return jax.lax.map(lambda r: denoise(field, x, s, lookahead_time(s, r)), r)


@partial(jax.jit, static_argnames="steps")
def _baselines(field: AverageField, x: Array, s: Array, key: PRNGKey, steps: int) -> tuple[Array, Array]:
    """Posterior samples [SAMPLES[-1], ...] and scaled diffusions [SCALES, ...] of x."""
    keys = jax.random.split(key, SAMPLES[-1] + 1)
    samples = posterior_sampling.posterior_samples(field, x, s, keys[1:], steps)
    scaled = jax.lax.map(
        lambda scale: posterior_sampling.scaled_diffusion(field, x, s, keys[0], scale, steps)[0], jnp.array(SCALES)
    )
    return samples, scaled


def sweep_noise_level(
    field: AverageField, images: np.ndarray, noise_level: float, config: ConfigDict, key: PRNGKey
) -> Sweep:
    """Every knob over its whole range on images [n, H, W, C] at one noise level; all settings in one compiled call.

    Args:
      field: an average field that is a pytree, such as a `jax.tree_util.Partial`.
      images: the clean images.
      noise_level: alpha = 1 - s.
      config: config.evaluate.
      key: of the noise; every draw of every image has noise of its own.
    """
    s = jnp.float32(1 - noise_level)
    r = setting_grid(config.points)
    settings = jnp.asarray([*r, min(STEP / noise_level, 1.0)], jnp.float32)
    noise = jax.random.normal(key, (config.noise_draws, *images.shape))
    noisy = interpolate(noise, jnp.broadcast_to(images, noise.shape), s)
    flat = noisy.reshape(-1, *images.shape[1:])
    *lookahead, step = in_batches(lambda x: sweep_lookaheads(field, x, s, settings), flat, config.batch_size, axis=1)
    lookahead = np.stack(lookahead).reshape(len(r), *noisy.shape)
    share = r.astype(np.float32)[:, None, None, None, None, None]
    chord = (1 - share) * lookahead[0] + share * lookahead[-1]
    ends = (r > 0).astype(int) + (r < 1)
    knobs = {
        "lookahead": _curve(r, lookahead, np.ones_like(ends), images),
        "chord": _curve(r, chord, ends, images),
    }
    if config.baseline_images:
        few = images[: config.baseline_images]
        start = lookahead[0, :1, : len(few)]
        knobs |= _baseline_curves(field, few, noisy[:1, : len(few)], start, s, config, jax.random.fold_in(key, 1))
    return Sweep(float(s), np.asarray(noisy), knobs, step.reshape(noisy.shape), np.arange(len(images)))


def _curve(settings: np.ndarray, restored: np.ndarray, evaluations: np.ndarray, clean: np.ndarray) -> Curve:
    mse = np.stack([np.square(x - clean).mean((-3, -2, -1)) for x in restored])
    return Curve(settings, restored, evaluations, mse)


def _baseline_curves(
    field, clean: np.ndarray, noisy: Array, first: np.ndarray, s: Array, config: ConfigDict, key: PRNGKey
) -> dict[str, Curve]:
    """The rivals on noisy images [draws, n, H, W, C] whose minimum-error estimates are `first`."""
    steps, flat = config.baseline_steps, noisy.reshape(-1, *noisy.shape[2:])
    keys = iter(jax.random.split(key, -(-len(flat) // config.batch_size)))
    drawn = in_batches(lambda x: _baselines(field, x, s, next(keys), steps), flat, config.batch_size, axis=1)
    samples, scaled = (x.reshape(len(x), *noisy.shape) for x in drawn)
    counts = np.array(SAMPLES)
    means = np.stack([posterior_sampling.mean_of_samples(samples[:n]) for n in SAMPLES])
    share = np.array(SCALES, np.float32)
    blended = np.stack([posterior_sampling.blend(first, samples[0], r) for r in share])
    return {
        "mean_of_samples": _curve(counts, means, counts * steps, clean),
        "scaled_diffusion": _curve(share, scaled, np.full(len(share), steps), clean),
        "blend": _curve(share, blended, steps * (share > 0) + (share < 1), clean),
    }


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


def measure_restorations(
    restored: np.ndarray, clean: Array, real: np.ndarray, width: Array, networks: NetworkMetrics
) -> list[dict[str, float]]:
    """The measures of [points, draws, n, H, W, C] restorations of clean [n, H, W, C], one dict a point.

    Of every distortion measure: its mean, its standard deviation over images (`_std`) and that of the mean over the
    draws of the noise (`_draw_std`). Of every perception measure, which needs a set: its mean and `_draw_std`.
    """
    points, draws, n = restored.shape[:3]
    sets = restored.reshape(-1, *restored.shape[2:])
    few = min(n, MAX_SET_SIZE)
    by_point = [jax.device_get(_distortion(x, clean)) for x in restored]  # one at a time, for want of memory
    per_image = {name: np.stack([row[name] for row in by_point]) for name in by_point[0]}
    per_image |= networks.per_image(restored, np.asarray(clean))
    per_set = jax.device_get(_perception(sets[:, :few], real, clean[:few], width)) | networks.per_set(sets)
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


def null_intervals(split: Split, width: Array, resamplings: int, key: PRNGKey) -> dict[str, dict[str, float]]:
    """What each perception measure comes to between real images and real images, with its 95 % interval.

    The test and training images of the split are dealt out anew, class by class, as the split itself was made.
    """
    real, labels = reference_images(split)
    test = split.test[:MAX_SET_SIZE]
    vectors = features(jnp.asarray(np.concatenate([test, real])))
    strata = np.concatenate([split.test_labels[: len(test)], labels])
    measures = {
        "kernel_distance": Partial(perception.kernel_distance, width=width),
        "frechet_distance": perception.frechet_distance,
        "variance_ratio": perception.variance_ratio,
    }
    return {
        name: perception.null_interval(measure, key, vectors, strata, len(test), resamplings)._asdict()
        for name, measure in measures.items()
    }


def reference_images(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The training images, and their classes, that stand for the real ones in perception measures."""
    chosen = np.random.default_rng(0).permutation(len(split.train))[:MAX_SET_SIZE]
    return split.train[chosen], split.train_labels[chosen]


def evaluate_denoising(
    field: AverageField, split: Split, config: ConfigDict, key: PRNGKey
) -> tuple[dict[str, Any], list[Sweep]]:
    """The denoising sweep over config.noise_levels on the test images of a split, and the residuals of the field.

    Perception is measured against training images, never against the clean versions of the restored ones.

    Returns:
      What goes into summary.json ("denoise", "floor", "images", "draws", "residuals", "weights"), and the sweeps: with
      all restorations where the target is known, to be compared, else with those of config.figure_images.
    """
    clean = jnp.asarray(split.test)
    real, _ = reference_images(split)
    width = perception.median_distance(features(jnp.asarray(real)))
    networks = network_metrics.load_network_metrics(split, config)
    curves, sweeps = [], []
    for index, noise_level in enumerate(config.noise_levels):
        swept = sweep_noise_level(field, split.test, noise_level, config, jax.random.fold_in(key, index))
        for name, knob in swept.knobs.items():
            rows = measure_restorations(knob.restored, clean[: knob.restored.shape[2]], real, width, networks)
            points = [{"t": float(swept.s + r * (1 - swept.s))} if name == "lookahead" else {} for r in knob.settings]
            for point, setting, cost, row in zip(points, knob.settings, knob.evaluations, rows, strict=True):
                point |= {"setting": float(setting), "evaluations": int(cost)} | row
            curves.append({"noise_level": noise_level, "s": swept.s, "knob": name, "points": points})
        first, step = (
            float(distortion.mse(jnp.asarray(x), clean).mean())
            for x in (swept.knobs["lookahead"].restored[0], swept.step)
        )
        curves[-len(swept.knobs)]["first_step"] = {"t": swept.s + STEP, "relative_mse_change": step / first - 1}
        sweeps.append(swept if split.target is not None else keep_images(swept, config.figure_images))
    floor = null_intervals(split, width, config.bootstrap, key) | networks.floors(split.test, split.test_labels)
    pairs = [(s, t) for s in RESIDUAL_TIMES for t in RESIDUAL_TIMES if s < t]
    exact = None if split.target is None else split.target.average_field
    table = residuals.table(single_device(field), clean[:RESIDUAL_IMAGES], key, pairs, exact)
    summary = {"images": len(clean), "draws": config.noise_draws, "denoise": curves, "floor": floor, "residuals": table}
    summary["weights"] = {name: found.origin for name, found in networks.weights.items()}
    return summary, sweeps


def keep_images(swept: Sweep, images: int) -> Sweep:
    """A sweep with the restorations of so many of its images, evenly chosen: all of them together fill the memory.

    Of the rivals those are kept that they restored. The noisy images stay, all of them.
    """
    kept = np.linspace(0, len(swept.kept) - 1, min(images, len(swept.kept))).astype(int)
    knobs = {
        name: knob._replace(restored=knob.restored[:, :, kept[kept < knob.restored.shape[2]]])
        for name, knob in swept.knobs.items()
    }
    return swept._replace(knobs=knobs, step=swept.step[:, kept], kept=kept)


def calibrate_lookahead(
    field: AverageField, clean: np.ndarray, sweeps: list[Sweep], config: ConfigDict
) -> tuple[Calibration, list[dict[str, float | None]]]:
    """The map from a budget in decibels to the relative lookahead, fitted on every second test image.

    Returns:
      The calibration, and how it does on the other images: for each noise level and budget the setting it gives and
      the decibels then lost ("achieved"), both None where the whole knob costs less than the budget.
    """
    fitted, other = slice(0, None, 2), slice(1, None, 2)
    r = sweeps[0].knobs["lookahead"].settings
    errors = []
    for swept in sweeps:
        errors.append(swept.knobs["lookahead"].mse[:, :, fitted].reshape(len(r), -1).T)
    calibration = Calibration.fit(config.noise_levels, r, np.stack(errors))
    trials = []
    for swept, noise_level in zip(sweeps, config.noise_levels, strict=True):
        x = jnp.asarray(swept.noisy[:, other]).reshape(-1, *clean.shape[1:])
        for budget in BUDGETS:
            trial: dict[str, float | None] = {"noise_level": noise_level, "budget_db": budget}
            try:
                setting = calibration.knob_for_loss(noise_level, budget)
            except InputError:
                trials.append(trial | {"setting": None, "achieved_db": None})
                continue
            restore = partial(sweep_lookaheads, field, s=swept.s, r=jnp.array([0.0, setting]))
            restored = in_batches(restore, x, config.batch_size, axis=1)
            psnr = _distortion(restored.reshape(2, *swept.noisy[:, other].shape), jnp.asarray(clean[other]))["psnr"]
            least, ours = np.asarray(psnr).reshape(2, -1).mean(1)
            trials.append(trial | {"setting": setting, "achieved_db": float(least - ours)})
    return calibration, trials
