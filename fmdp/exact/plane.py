"""Points in the plane of distortion and perception, the optimal frontier there, and how far above it a point lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from fmdp.errors import InputError, translating
from fmdp.exact.covariance import real_array

Numbers = ArrayLike | Sequence


class Interval(NamedTuple):
    """A quantity between two bounds, each with its Monte Carlo standard error (zero if the bound is exact)."""

    low: np.ndarray
    high: np.ndarray
    low_error: np.ndarray | float = 0.0
    high_error: np.ndarray | float = 0.0

    @classmethod
    def exactly(cls, value: ArrayLike, error: ArrayLike = 0.0) -> "Interval":
        """The interval of a known quantity, with low = high."""
        value, error = np.asarray(value, np.float64), np.asarray(error, np.float64)
        return cls(value, value, error, error)


@dataclass(frozen=True, kw_only=True)
class Points:
    """Estimators in the plane: mean squared errors [T], squared W2 distances [T], and standard errors of the former."""

    mse: np.ndarray
    squared_w2: Interval
    mse_error: np.ndarray | float = 0.0


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """D(P) = mmse + [(P* - P)_+]^2 with P*^2 an interval, and `floor` the sampling error of any squared W2."""

    mmse: float
    squared_p_star: Interval
    mmse_error: float = 0.0
    floor: float = 0.0

    def distortion(self, perception: Numbers) -> Interval:
        """The least mean squared error at W2 distances of `perception` >= 0, with their shape."""
        perception = real_array("perception", perception)
        if perception.min() < 0:
            raise InputError(f"perception = {perception.min():g}: pass distances, from 0")
        bounds = (optimal_distortion(self.mmse, squared, perception) for squared in self.squared_p_star[:2])
        return Interval(*bounds)


def optimal_distortion(mmse: ArrayLike, squared_p_star: ArrayLike, perception: ArrayLike) -> np.ndarray:
    """D(P) = mmse + [(P* - P)_+]^2, per pixel, broadcast (Freirich et al., arXiv 2107.02555, theorem 1).

    Raises:
      InputError: a negative squared distance, or shapes that do not broadcast.
    """
    with translating("mmse, squared P* and perception: {}: pass real numbers".format, TypeError, ValueError):
        mmse, squared, distance = (np.asarray(value, np.float64) for value in (mmse, squared_p_star, perception))
    if (squared < 0).any():
        raise InputError(f"squared P* = {squared.min():g}: pass a squared distance, from 0")
    with translating("mmse, squared P* and perception: {}: pass arrays of one shape".format, ValueError):
        return mmse + np.maximum(np.sqrt(squared) - distance, 0) ** 2


def excess(points: Points, frontier: Frontier, away: float = 4.0) -> Interval:
    """Mean squared error above the optimum at equal perception, relative to the optimum, [T].

    It is NaN for points whose squared W2 is below `away` sampling floors, where the estimate is mostly sampling error.
    The errors of the mean squared errors and of the distances are treated as independent; `bracket` propagates them
    jointly.
    """
    bounds = []
    for near, star in ((0, 1), (1, 0)):  # the least excess belongs to the nearest point and the farthest P*
        inputs = points.mse, points.squared_w2[near], frontier.mmse, frontier.squared_p_star[star]
        errors = points.mse_error, points.squared_w2[near + 2], frontier.mmse_error, frontier.squared_p_star[star + 2]
        bounds.append(_propagate(inputs, errors))
    (low, low_error), (high, high_error) = bounds
    hidden = points.squared_w2.high < away * frontier.floor
    values = np.maximum(low, 0), np.maximum(high, 0), low_error, high_error
    return Interval(*(np.where(hidden, np.nan, value) for value in values))


def relative_excess(mse, squared_w2, mmse, squared_p_star) -> np.ndarray:
    """The mean squared error over the least at equal squared W2, minus 1; all are broadcast."""
    return mse / optimal_distortion(mmse, squared_p_star, np.sqrt(np.maximum(squared_w2, 0))) - 1


def _propagate(inputs: Sequence, errors: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """The relative excess and its standard error: the root sum of squares of the changes by each input's error."""
    value = relative_excess(*inputs)
    variance = np.zeros_like(value)
    for i, error in enumerate(errors):
        moved = [np.add(x, error) if i == j else x for j, x in enumerate(inputs)]
        variance += (relative_excess(*moved) - value) ** 2
    return value, np.sqrt(variance)
