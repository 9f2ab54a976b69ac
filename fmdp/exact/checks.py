"""What is asked of times and covariances, checked where their values are known (not under a transformation)."""

from itertools import pairwise

import jax
import numpy as np
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.types import Time

ROUNDING = 1e-6


def check_times(*times: Time) -> None:
    """Raises InputError unless 0 <= s <= ... <= t <= 1, up to float32 rounding. Traced times pass."""
    if any(isinstance(time, jax.core.Tracer) for time in times):
        return
    values = [np.asarray(time) for time in times]
    for value in values:
        if not np.all((value >= -ROUNDING) & (value <= 1 + ROUNDING)):
            raise InputError(f"time {_worst(value)} is outside [0, 1]: time 0 is pure noise, time 1 is clean data")
    for earlier, later in pairwise(values):
        s, t = np.broadcast_arrays(earlier, later)
        if np.any(s > t + ROUNDING):
            i = np.argmax(s - t)
            raise InputError(f"times must ascend, got s = {s.flat[i]:g} > t = {t.flat[i]:g}: swap them")


def _worst(value: np.ndarray) -> str:
    return f"{value.flat[np.argmax(np.where(np.isnan(value), np.inf, np.abs(value - 0.5)))]:g}"


def eigendecomposition(covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [n] and eigenvectors [n, n] (columns) of a symmetric positive semidefinite matrix, in float64."""
    matrix = np.asarray(covariance, np.float64)
    if not np.all(np.isfinite(matrix)):
        raise InputError("the covariance has entries that are not finite: check the data it was estimated from")
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > ROUNDING * np.abs(matrix).max():
        raise InputError(f"the covariance differs from its transpose by {asymmetry:.3g}: pass (C + C.T) / 2")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return nonnegative(values), vectors


def nonnegative(eigenvalues: np.ndarray) -> np.ndarray:
    """The eigenvalues with rounding below zero removed; InputError where they are truly negative."""
    if not np.all(np.isfinite(eigenvalues)) or eigenvalues.min() < -ROUNDING * np.abs(eigenvalues).max():
        raise InputError(
            f"the covariance has an eigenvalue of {eigenvalues.min():.3g}: it must be positive semidefinite, "
            "add a ridge to its diagonal"
        )
    return np.maximum(eigenvalues, 0)
