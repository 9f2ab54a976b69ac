"""The squared W2 distance between Gaussians, ||m1 - m2||^2 + tr C1 + tr C2 - 2 tr (C1 C2)^1/2.

The last trace depends on what is known of the covariances. All results are sums over coordinates, of shape [...].
"""

from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

Array = jax.Array | np.ndarray


def squared_w2(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array, *, xp: ModuleType = np) -> Any:
    """The distance from means [..., n] and covariances [..., n, n].

    For any other distributions with these moments it is a lower bound of their squared W2 (Gelbrich 1990).

    Args:
      xp: numpy, for float64, or jax.numpy, for use in compiled functions.
    """
    values, vectors = xp.linalg.eigh(cov_a)
    root = (vectors * xp.sqrt(xp.maximum(values, 0))[..., None, :]) @ xp.swapaxes(vectors, -1, -2)
    cross = xp.sqrt(xp.maximum(xp.linalg.eigvalsh(root @ cov_b @ root), 0)).sum(-1)
    trace_a, trace_b = (xp.trace(cov, axis1=-2, axis2=-1) for cov in (cov_a, cov_b))
    return _assemble(mean_a, mean_b, trace_a, trace_b, cross, xp)


def squared_w2_of_factors(mean_a: Array, factor_a: Array, mean_b: Array, factor_b: Array) -> Any:
    """The distance from means [n] and factors F [k, n] of the covariances F'F; fast where k is smaller than n.

    tr (F'F G'G)^1/2 is the sum of the singular values of F G'. This takes no root of a product of covariances, which
    is singular up to rounding where samples are few.
    """
    cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    return _assemble(mean_a, mean_b, np.sum(factor_a**2), np.sum(factor_b**2), cross, np)


def _assemble(mean_a: Array, mean_b: Array, trace_a: ArrayLike, trace_b: ArrayLike, cross: ArrayLike, xp) -> Any:
    """The distance, kept at zero or above against rounding."""
    return xp.maximum(xp.square(mean_a - mean_b).sum(-1) + trace_a + trace_b - 2 * cross, 0)
