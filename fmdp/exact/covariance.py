"""Checks and eigendecompositions of covariances whose values are known (not under a transformation)."""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from fmdp.errors import InputError, translating
from fmdp.io.levels import as_numpy, require_numbers

ROUNDING = 1e-6


def real_array(name: str, values: Any) -> np.ndarray:
    """Finite real numbers of any type, also in lists, in float64. Raises InputError for anything else."""
    with translating(lambda why: f"{name}: {why}", InputError):
        array = as_numpy(values)
        require_numbers(array)
    return array.astype(np.float64)


def require_image_shape(x: Any, shape: tuple[int, ...]) -> None:
    """Raises InputError unless x holds images of the target, which have this shape."""
    if x.shape[-3:] != shape:
        raise InputError(
            f"x has shape {x.shape}, but the target is of images {shape}: pass [..., H, W, C] of that size"
        )


def eigendecomposition(covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [n] and eigenvectors [n, n] (columns) of a symmetric positive semidefinite matrix, in float64.

    Raises:
      InputError: the matrix is not finite, symmetric and positive semidefinite.
    """
    matrix = np.asarray(covariance, np.float64)
    if not np.all(np.isfinite(matrix)):
        raise InputError("the covariance has entries that are not finite: check the data it was estimated from")
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > ROUNDING * np.abs(matrix).max():
        raise InputError(f"the covariance differs from its transpose by {asymmetry:.3g}: pass (C + C.T) / 2")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return nonnegative(values), vectors


def nonnegative(eigenvalues: np.ndarray) -> np.ndarray:
    """The eigenvalues with negative rounding errors removed; InputError if one is truly negative."""
    if not np.all(np.isfinite(eigenvalues)) or eigenvalues.min() < -ROUNDING * np.abs(eigenvalues).max():
        remedy = "it must be positive semidefinite, add a ridge to its diagonal"
        raise InputError(f"the covariance has an eigenvalue of {eigenvalues.min():.3g}: {remedy}")
    return np.maximum(eigenvalues, 0)
