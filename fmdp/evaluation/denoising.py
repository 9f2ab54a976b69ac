"""The denoising sweep: every knob at every noise level, measured on held-out images."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.evaluation import network_metrics
from fmdp.evaluation.calibration import Calibration
from fmdp.evaluation.measures import measure_distortion, measure_restorations, null_intervals, reference_images
from fmdp.evaluation.results import (
    CalibrationTrial,
    DenoisingCurve,
    DenoisingPoint,
    DenoisingResult,
    FirstStep,
    Residuals,
)
from fmdp.flow import posterior_sampling, residuals
from fmdp.flow.average_field import denoise, lookahead_time
from fmdp.flow.interpolant import interpolate
from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features
from fmdp.parallel.batching import in_batches
from fmdp.types import AverageField, PRNGKey

STEP = 0.02  # the first step of the lookahead by which its continuity at t = s is judged
SAMPLES = (1, 2, 4, 8)
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
BUDGETS = (0.25, 0.5, 1.0)  # decibels below the minimum-error estimate at which the calibration is tested
RESIDUAL_TIMES = (0.05, 0.3, 0.5, 0.7, 0.9, 1.0)
RESIDUAL_IMAGES = 256
DERIVATIVE_MEMORY = 5  # of the residuals of an image, as a multiple of a forward pass; measured with a U-Net on a CPU


class Curve(NamedTuple):
    """The restorations of one knob, from one end of its range to the other.

    Attributes:
      settings: [k], of the knob.
      restored: [k, draws, n, H, W, C].
      evaluations: [k], of the field, for one image.
      mse: [k, draws, n], of all images, even if only some restorations are kept.
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
      curves: by knob: `lookahead` and `chord` at settings r; the baselines, which cost many evaluations, on the
        first draw of the first `config.baseline_images` images only.
      step: D_{s,t} at t = min(s + STEP, 1), [draws, n, H, W, C].
      kept: [n], which of the measured images these are.
    """

    s: float
    noisy: np.ndarray
    curves: dict[str, Curve]
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
    curves = {
        "lookahead": _curve(r, lookahead, np.ones_like(ends), images),
        "chord": _curve(r, chord, ends, images),
    }
    if config.baseline_images:
        few = images[: config.baseline_images]
        start = lookahead[0, :1, : len(few)]
        curves |= _baseline_curves(field, few, noisy[:1, : len(few)], start, s, config, jax.random.fold_in(key, 1))
    return Sweep(float(s), np.asarray(noisy), curves, step.reshape(noisy.shape), np.arange(len(images)))


def _curve(settings: np.ndarray, restored: np.ndarray, evaluations: np.ndarray, clean: np.ndarray) -> Curve:
    mse = np.stack([np.square(x - clean).mean((-3, -2, -1)) for x in restored])
    return Curve(settings, restored, evaluations, mse)


def _baseline_curves(
    field, clean: np.ndarray, noisy: Array, first: np.ndarray, s: Array, config: ConfigDict, key: PRNGKey
) -> dict[str, Curve]:
    """The baselines on noisy images [draws, n, H, W, C] whose minimum-error estimates are `first`."""
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


def evaluate_denoising(
    field: AverageField, split: Split, config: ConfigDict, key: PRNGKey
) -> tuple[DenoisingResult, list[Sweep]]:
    """The denoising sweep over config.noise_levels on the test images of a split, and the residuals of the field.

    Perception is measured against training images, never against the clean versions of the restored ones.

    Returns:
      The result, and the sweeps: with all restorations where the target is known, because they are compared with the
      exact field's, else with those of config.figure_images.
    """
    clean = jnp.asarray(split.test)
    real, _ = reference_images(split)
    width = perception.median_distance(features(jnp.asarray(real)))
    networks = network_metrics.load_network_metrics(split, config)
    measure = partial(measure_restorations, real=real, width=width, networks=networks)
    curves, sweeps = [], []
    for index, noise_level in enumerate(config.noise_levels):
        swept = sweep_noise_level(field, split.test, noise_level, config, jax.random.fold_in(key, index))
        curves += measure_sweep(swept, noise_level, clean, measure)
        sweeps.append(swept if split.target is not None else keep_images(swept, config.figure_images))
    floor = null_intervals(split, width, config.bootstrap, key) | networks.floors(split.test, split.test_labels)
    pairs = [(s, t) for s in RESIDUAL_TIMES for t in RESIDUAL_TIMES if s < t]
    exact = None if split.target is None else split.target.average_field
    size = max(config.batch_size // DERIVATIVE_MEMORY, 1)
    table = residuals.table(field, clean[:RESIDUAL_IMAGES], key, pairs, exact, size)
    result = DenoisingResult(
        images=len(clean),
        draws=config.noise_draws,
        denoise=curves,
        floor=floor,
        residuals=[Residuals(s=row.pop("s"), t=row.pop("t"), measures=row) for row in table],
        weights={name: found.origin for name, found in networks.weights.items()},
    )
    return result, sweeps


def measure_sweep(
    swept: Sweep,
    noise_level: float,
    clean: Array,
    measure: Callable[[np.ndarray, Array], list[dict[str, float]]],
) -> list[DenoisingCurve]:
    """The curves of one noise level, measured by `measure(restorations, clean images)`."""
    curves = []
    for name, curve in swept.curves.items():
        is_lookahead = name == "lookahead"
        rows = measure(curve.restored, clean[: curve.restored.shape[2]])
        points = [
            DenoisingPoint(
                t=float(swept.s + setting * (1 - swept.s)) if is_lookahead else None,
                setting=float(setting),
                evaluations=int(cost),
                measures=row,
            )
            for setting, cost, row in zip(curve.settings, curve.evaluations, rows, strict=True)
        ]
        first_step = _first_step(swept, clean) if is_lookahead else None
        curves.append(
            DenoisingCurve(noise_level=noise_level, s=swept.s, knob=name, points=points, first_step=first_step)
        )
    return curves


def _first_step(swept: Sweep, clean: Array) -> FirstStep:
    start, step = (
        float(distortion.mse(jnp.asarray(x), clean).mean()) for x in (swept.curves["lookahead"].restored[0], swept.step)
    )
    return FirstStep(t=min(swept.s + STEP, 1.0), relative_mse_change=step / start - 1)


def keep_images(swept: Sweep, images: int) -> Sweep:
    """A sweep that keeps the restorations of `images` images, evenly chosen, because all of them would fill the memory.

    Of the baselines those are kept that restored these images. All noisy images stay.
    """
    kept = np.linspace(0, len(swept.kept) - 1, min(images, len(swept.kept))).astype(int)
    curves = {
        name: curve._replace(restored=curve.restored[:, :, kept[kept < curve.restored.shape[2]]])
        for name, curve in swept.curves.items()
    }
    return swept._replace(curves=curves, step=swept.step[:, kept], kept=kept)


def calibrate_lookahead(
    field: AverageField, clean: np.ndarray, sweeps: list[Sweep], config: ConfigDict
) -> tuple[Calibration, list[CalibrationTrial]]:
    """The map from a budget in decibels to the relative lookahead, fitted on every second test image.

    Returns:
      The calibration, and its test on the other images at each noise level and budget.
    """
    fitted, other = slice(0, None, 2), slice(1, None, 2)
    errors = [np.moveaxis(swept.curves["lookahead"].mse[:, :, fitted], 0, -1) for swept in sweeps]
    calibration = Calibration.fit(config.noise_levels, sweeps[0].curves["lookahead"].settings, np.stack(errors))
    trials = []
    for swept, noise_level in zip(sweeps, config.noise_levels, strict=True):
        x = jnp.asarray(swept.noisy[:, other]).reshape(-1, *clean.shape[1:])
        for budget in BUDGETS:
            setting = achieved = None
            with contextlib.suppress(InputError):  # the whole range of the knob costs less than the budget
                setting = calibration.knob_for_loss(noise_level, budget)
            if setting is not None:
                restore = partial(sweep_lookaheads, field, s=swept.s, r=jnp.array([0.0, setting]))
                restored = in_batches(restore, x, config.batch_size, axis=1)
                psnr = measure_distortion(restored.reshape(2, *swept.noisy[:, other].shape), jnp.asarray(clean[other]))[
                    "psnr"
                ]
                least, ours = np.asarray(psnr).reshape(2, -1).mean(1)
                achieved = float(least - ours)
            trials.append(
                CalibrationTrial(noise_level=noise_level, budget_db=budget, setting=setting, achieved_db=achieved)
            )
    return calibration, trials
