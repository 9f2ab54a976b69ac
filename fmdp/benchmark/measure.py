"""One test picture measured: denoised by a prior and its rivals at every noise level, and compared with the truth."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.benchmark.rivals import Rival, run_rival
from fmdp.errors import InputError, reason
from fmdp.evaluation.network_metrics import image_distances
from fmdp.evaluation.results import Number
from fmdp.io.levels import UNIT
from fmdp.metrics import distortion, weights
from fmdp.metrics.backbones import MIN_SIDE, Backbone
from fmdp.metrics.weights import AUTO, Weights
from fmdp.restoration.request import GRAY_LEVELS, Request
from fmdp.restoration.restore import restore
from fmdp.types import SizedField

DISTANCES = {"lpips": "lpips_alex", "dists": "dists"}  # the networks of the benchmark, by their keys in config.evaluate
LOOKAHEAD, CHORD, NOISY = "lookahead", "chord", "noisy"


class Made(NamedTuple):
    """What made an estimate: `LOOKAHEAD` or `CHORD` with its position from 0 to 1, `NOISY`, or a rival without one."""

    method: str
    lookahead: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measures of one estimate of a picture: psnr and, of some pictures, ssim, lpips_alex and dists."""

    sigma: Number
    method: str
    lookahead: Number | None = None
    measures: dict[str, Number]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How every picture is measured.

    Attributes:
      prior: a field that knows its `image_shape`.
      sigmas: standard deviations of the noise, of 255.
      request: lookaheads from 0 to 1, with the tiles and the memory for them.
      rivals, distances: by name.
    """

    prior: SizedField
    sigmas: Sequence[float]
    request: Request
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    distances: Mapping[str, Weights] = field(default_factory=dict)


class Measured(NamedTuple):
    """The rows of a picture, its estimates [H, W, C] at each noise level, and what there is to know about it."""

    rows: list[Row]
    estimates: dict[float, dict[Made, np.ndarray]]
    notes: list[str]


def load_distances(config: ConfigDict) -> tuple[dict[str, Weights], str]:
    """LPIPS (AlexNet) and DISTS as config.evaluate asks for them, and a line about those that are missing, else "".

    Raises:
      InputError: a configured path holds no usable weights.
    """
    found, absent = {}, []
    for key, name in DISTANCES.items():
        loaded = weights.load_weights(name, config[key]) if config[key] else None
        if loaded is not None:
            found[name] = loaded
        elif config[key] in ("", AUTO):
            remedy = weights.describe_wanted(name) if config[key] else f"config.evaluate.{key}=auto"
            absent.append(f"{name} needs {remedy}")
        else:
            raise InputError(f"config.evaluate.{key} = {config[key]!r}: no weights of {name} there; give auto")
    return found, f"not measured: {'; '.join(absent)}" if absent else ""


def measure_picture(plan: Plan, clean: np.ndarray, noise: np.ndarray, in_full: bool) -> Measured:
    """A picture denoised and measured at every noise level.

    Args:
      clean: [H, W, C] in [-1, 1], with the channels of the prior.
      noise: standard normal, of that shape. It is scaled by sigma and added, and the sum is not clipped.
      in_full: measure everything; otherwise only the PSNR of both ends of the lookahead, and of the noisy picture.
    """
    rows, by_sigma, notes = [], {}, list[str]()
    distances, small = _suited(plan.distances if in_full else {}, clean.shape)
    for sigma in plan.sigmas:
        estimates, more = _estimates(plan, clean + np.float32(sigma / GRAY_LEVELS) * noise, sigma, in_full)
        once = [made for made in estimates if made == _equal(made)]
        stack = np.stack([estimates[made] for made in once])
        measures = {"psnr": distortion.clipped_psnr(stack, clean)}
        if in_full:
            measures["ssim"] = np.asarray(_ssim(stack, clean))
        for name, (network, params, _) in distances.items():
            measures[name] = np.asarray(image_distances(network, params, stack[:, None], clean[None]))[:, 0]
        for made in estimates:
            at = {name: float(values[once.index(_equal(made))]) for name, values in measures.items()}
            rows.append(Row(sigma=sigma, method=made.method, lookahead=made.lookahead, measures=at))
        by_sigma[sigma] = estimates
        notes += [note for note in [*more, *small] if note not in notes]
    return Measured(rows, by_sigma, notes)


def _equal(made: Made) -> Made:
    """What makes the same estimate, for one of them: the ends of the chord are those of the lookahead."""
    return Made(LOOKAHEAD, made.lookahead) if made.method == CHORD and made.lookahead in (0, 1) else made


def _estimates(plan: Plan, noisy: np.ndarray, sigma: float, in_full: bool) -> tuple[dict[Made, np.ndarray], list[str]]:
    """The estimates [H, W, C] of a noisy picture, in the order of the table, and notes."""
    every = plan.request.lookaheads
    lookaheads = tuple(every) if in_full else (every[0], every[-1])
    request = dataclasses.replace(
        plan.request, degraded=True, range=UNIT, sigma=sigma / GRAY_LEVELS, lookaheads=lookaheads
    )
    restored = restore(plan.prior, noisy, request)
    images = restored.images[:, 0]
    found = {Made(LOOKAHEAD, r): image for r, image in zip(lookaheads, images, strict=True)}
    if in_full:
        found |= {Made(CHORD, r): (1 - r) * images[0] + r * images[-1] for r in lookaheads}
    found[Made(NOISY)] = noisy
    notes = [note.text for note in restored.notes if note.parameter != "sigma"]  # which is known here
    if in_full:
        for name, rival in plan.rivals.items():
            try:
                found[Made(name)] = run_rival(rival, noisy, sigma / GRAY_LEVELS)
            except Exception as error:  # whatever another package raises must not end a run of hours
                notes.append(f"{rival.title} failed at sigma {sigma:g}: {reason(error)}")
    return found, notes


def _suited(distances: Mapping[str, Weights], shape: tuple[int, ...]) -> tuple[dict[str, Weights], list[str]]:
    """The distances that take pictures of this shape, and a note for each that does not."""
    found, notes = {}, []
    for name, loaded in distances.items():
        least = MIN_SIDE[loaded.network.backbone] if isinstance(loaded.network, Backbone) else 1
        if min(shape[:2]) < least:
            notes.append(f"{shape[0]}x{shape[1]}, and {name} needs {least} pixels a side: not measured")
        else:
            found[name] = loaded
    return found, notes


@jax.jit
def _ssim(estimates: Array, clean: Array) -> Array:
    return jax.lax.map(lambda x: distortion.ssim(x, clean), estimates)
