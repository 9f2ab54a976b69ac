"""The setting of the knob for a budget in decibels or for a perceptual quality.

At each noise level, the loss on held-out images is made monotone in the knob by isotonic regression, interpolated by
PCHIP, and solved for the knob. The knob can be any that starts at the minimum-error estimate, such as the relative
lookahead r in [0, 1].
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

import numpy as np
from jax.typing import ArrayLike
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from sklearn.isotonic import isotonic_regression

from fmdp.errors import InputError, translating

Numbers: TypeAlias = ArrayLike | Sequence


@dataclass(frozen=True, kw_only=True)
class Level:
    """One noise level: ascending knobs with the ascending loss in decibels and, if measured, descending perception.

    `loss_error` is the largest held-out error of the loss in decibels over the knobs, or None if it was not measured.
    """

    noise_level: float
    knobs: tuple[float, ...]
    loss: tuple[float, ...]
    perception: tuple[float, ...] | None = None
    loss_error: float | None = None


@dataclass(frozen=True)
class Calibration:
    """Monotone maps between knob, loss in decibels and perception, at ascending noise levels.

    All levels have the same knobs. Between two levels, loss and perception at every knob are interpolated linearly in
    the noise level.
    """

    levels: tuple[Level, ...]

    @classmethod
    def fit(
        cls,
        noise_levels: Numbers,
        knobs: Numbers,
        mse: Numbers,
        perception: Numbers | None = None,
    ) -> "Calibration":
        """Fits one monotone map for each noise level.

        Args:
          noise_levels: [A], in any order.
          knobs: [J], ascending; the first is the minimum-error estimate.
          mse: [A, J] or, per image, [A, N, J] or [A, draws, N, J]; then the loss is the difference of the mean PSNRs,
            and two-fold cross-validation over the N images measures its error.
          perception: [A, J], smaller is better.

        Raises:
          InputError: shapes do not fit, knobs do not ascend, or errors are not positive.
        """
        mse, grid = np.asarray(mse, np.float64), np.asarray(knobs, np.float64)
        noise = np.asarray(noise_levels, np.float64)
        if grid.ndim != 1 or len(grid) < 2 or np.any(np.diff(grid) <= 0):
            raise InputError(f"knobs {grid.tolist()} must ascend and be at least two: sort them and drop repeats")
        shape, shapes = (len(noise), len(grid)), {"errors": mse.shape[:1] + mse.shape[-1:]}
        for name, found in (shapes if perception is None else shapes | {"perception": np.shape(perception)}).items():
            if found != shape:
                raise InputError(f"{name} of shape {found}: pass {shape[0]} noise levels (rows) by {shape[1]} knobs")
        if not np.all(mse > 0):
            raise InputError(f"a mean squared error of {np.min(mse):g} has no PSNR: all must be positive")
        levels = []
        for i in np.argsort(noise):
            down = None if perception is None else _monotone(np.asarray(perception)[i], increasing=False)
            levels.append(
                Level(
                    noise_level=float(noise[i]),
                    knobs=tuple(grid.tolist()),
                    loss=_loss(mse[i]),
                    perception=down,
                    loss_error=_cross_validate(mse[i]),
                )
            )
        return cls(tuple(levels))

    def knob_for_loss(self, noise_level: float, decibels: float) -> float:
        """The largest knob whose PSNR is at most `decibels` below that of the minimum-error estimate.

        Raises:
          InputError: the budget is negative or larger than the loss over the whole knob (which the message states), or
            the noise level is outside the calibrated range.
        """
        return _invert_loss(self._at(noise_level), decibels)

    def knob_for_perception(self, noise_level: float, target: float) -> float:
        """The smallest knob whose perception is at most `target`, and hence the least distortion for it.

        Raises:
          InputError: no knob attains the target (the message states the range), perception was not measured, or the
            noise level is outside the calibrated range.
        """
        return _invert_perception(self._at(noise_level), target)

    def loss_at(self, noise_level: float, knob: float) -> float:
        """The loss in decibels at a setting of the knob."""
        level = self._at(noise_level)
        return float(_curve(level.knobs, level.loss)(knob))

    def with_error(self, mse: Numbers) -> "Calibration":
        """The same maps with `loss_error` from the errors of other images, shaped as in `fit`, at ascending levels."""
        measured = [
            float(np.abs(np.subtract(_raw_loss(np.asarray(errors)), level.loss)).max())
            for errors, level in zip(np.asarray(mse, np.float64), self.levels, strict=True)
        ]
        levels = zip(self.levels, measured, strict=True)
        return Calibration(tuple(replace(level, loss_error=error) for level, error in levels))

    def to_dict(self) -> dict:
        """Plain lists and numbers, for JSON."""
        return {
            "levels": [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(x).items()} for x in self.levels]
        }

    @classmethod
    def from_dict(cls, saved: dict) -> "Calibration":
        """The inverse of `to_dict`; InputError if the dictionary is not a stored calibration."""
        kinds = KeyError, TypeError, AttributeError, ValueError
        with translating(lambda why: f"not a stored calibration ({why}): calibrate again", *kinds):
            levels: list[dict] = [
                {k: tuple(v) if isinstance(v, list) else v for k, v in x.items()} for x in saved["levels"]
            ]
            found = cls(tuple(Level(**level) for level in levels))
            noise = [level.noise_level for level in found.levels]
            same = all(level.knobs == found.levels[0].knobs for level in found.levels)
            if not (noise and _ascends(noise, 1e-9) and same and all(map(_is_monotone, found.levels))):
                raise ValueError("numbers are missing, do not ascend, or are of different knobs")
            return found

    def _at(self, noise_level: float) -> Level:
        """The maps at a noise level, a calibrated one or between two."""
        levels = [level.noise_level for level in self.levels]
        if not levels[0] - 1e-9 <= noise_level <= levels[-1] + 1e-9:
            raise InputError(f"noise level {noise_level:g} is not calibrated: choose {levels[0]:g} to {levels[-1]:g}")
        right = int(np.clip(np.searchsorted(levels, noise_level - 1e-9), 0, len(levels) - 1))
        if abs(levels[right] - noise_level) <= 1e-9:
            return self.levels[right]
        below, above = self.levels[right - 1], self.levels[right]
        share = (noise_level - below.noise_level) / (above.noise_level - below.noise_level)
        perception = None
        if below.perception and above.perception:
            perception = _mix(below.perception, above.perception, share)
        loss = _mix(below.loss, above.loss, share)
        return Level(noise_level=noise_level, knobs=below.knobs, loss=loss, perception=perception)


def _mix(a: Sequence[float], b: Sequence[float], share: float) -> tuple[float, ...]:
    return tuple((np.asarray(a) + share * np.subtract(b, a)).tolist())


def _ascends(values: Sequence[float], least: float = 0.0) -> bool:
    """Whether these are finite numbers, each larger than the one before by at least `least`."""
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e300 for x in values)
    return numbers and all(b - a >= least for a, b in itertools.pairwise(values))


def _is_monotone(level: Level) -> bool:
    """Whether knobs and loss ascend and perception descends, each with one number per knob."""
    down = level.loss if level.perception is None else level.perception[::-1]
    whole = len(level.knobs) == len(level.loss) == len(down) > 1
    return whole and _ascends(level.knobs, 1e-12) and _ascends(level.loss) and _ascends(down)


def _raw_loss(mse: np.ndarray) -> np.ndarray:
    decibels = 10 * np.log10(mse / mse[..., :1])
    return decibels.reshape(-1, decibels.shape[-1]).mean(0)


def _loss(mse: np.ndarray) -> tuple[float, ...]:
    """Decibels lost at each knob, monotone and exactly zero at the first."""
    return _monotone(np.maximum(_raw_loss(mse), 0), increasing=True)


def _monotone(values: np.ndarray, increasing: bool) -> tuple[float, ...]:
    return tuple(isotonic_regression(np.asarray(values, np.float64), increasing=increasing).tolist())


def _cross_validate(mse: np.ndarray) -> float | None:
    """The largest difference over the knobs between the fitted loss of one half and the measured loss of the other."""
    if mse.ndim == 1 or mse.shape[-2] < 4:
        return None
    halves = mse[..., ::2, :], mse[..., 1::2, :]
    return float(max(np.abs(np.subtract(_loss(a), _raw_loss(b))).max() for a, b in (halves, halves[::-1])))


def _curve(knobs, values) -> PchipInterpolator:
    return PchipInterpolator(knobs, values)


def _invert_loss(level: Level, decibels: float) -> float:
    most = level.loss[-1]
    if not 0 <= decibels <= most + 1e-9:
        remedy = f"the knob loses from 0 to {most:.3g} dB, choose a budget in that range"
        raise InputError(f"a budget of {decibels:g} dB cannot be spent at noise level {level.noise_level:g}: {remedy}")
    return _last_below(level.knobs, level.loss, decibels)


def _invert_perception(level: Level, target: float) -> float:
    if level.perception is None:
        raise InputError("no perception was measured in this calibration: choose a loss in decibels")
    if target < level.perception[-1]:
        reach = f"the knob reaches {level.perception[-1]:.4g} at best and {level.perception[0]:.4g} at minimum error"
        raise InputError(f"a perception of {target:g} cannot be met at noise level {level.noise_level:g}: {reach}")
    # From the far end of the knob, perception increases, and the last setting below the target is the result.
    return -_last_below([-k for k in level.knobs[::-1]], level.perception[::-1], target)


def _last_below(knobs: Sequence[float], values: Sequence[float], bound: float) -> float:
    """The largest knob at which the ascending values, interpolated, do not exceed the bound."""
    last = int(np.searchsorted(values, bound, side="right")) - 1
    if last == len(values) - 1:
        return float(knobs[-1])
    curve = _curve(knobs, values)
    return float(brentq(lambda k: curve(k) - bound, knobs[last], knobs[last + 1], xtol=1e-12))
