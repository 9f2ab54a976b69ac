"""Checks and eigendecompositions of covariances whose values are known (not under a transformation)."""

import numpy as np
from jax.typing import ArrayLike

from fmdp.errors import InputError

ROUNDING = 1e-6


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
