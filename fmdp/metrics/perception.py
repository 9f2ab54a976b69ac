"""Perception: how far the distribution of restored images is from that of real ones, between two sets of features."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Float

from fmdp.exact.wasserstein import squared_w2
from fmdp.types import PRNGKey, Scalar

Vectors = Float[Array, "_ d"]  # two sets may differ in size
WIDTHS = (0.5, 1.0, 2.0)


def squared_distances(x: Array, y: Array) -> Array:
    """||x_i - y_j||^2, [n, m] for x [n, d] and y [m, d]."""
    products = jnp.matmul(x, y.T, precision="highest")  # most of it cancels below
    return jnp.maximum(jnp.sum(x**2, -1)[:, None] + jnp.sum(y**2, -1) - 2 * products, 0.0)


def median_distance(x: Vectors) -> Array:
    """The median distance between two different vectors of a set, a natural width for a kernel."""
    i, j = np.triu_indices(len(x), 1)
    return jnp.sqrt(jnp.median(squared_distances(x, x)[i, j]))


def kernel_distance(x: Vectors, y: Vectors, width: Scalar) -> Array:
    """Unbiased squared maximum mean discrepancy MMD^2 between two samples (Gretton et al. 2012, eq. 3).

    The kernel is the mean of three Gaussians with 0.5, 1 and 2 times `width`. If the distributions agree, the mean is
    zero, and single values are negative as often as positive.
    """

    def kernel(a, b):
        distances = squared_distances(a, b) / width**2
        return sum(jnp.exp(-distances / (2 * scale**2)) for scale in WIDTHS) / len(WIDTHS)

    def within(a):
        return (jnp.sum(kernel(a, a)) - len(a)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * jnp.mean(kernel(x, y))


def frechet_distance(x: Vectors, y: Vectors) -> Array:
    """||m_x - m_y||^2 + tr(C_x + C_y - 2 (C_x C_y)^{1/2}): squared W2 between the Gaussians fitted to the samples.

    Its upward bias depends on the sizes of the samples: compare it with its floor.
    """
    (mean_x, cov_x), (mean_y, cov_y) = ((jnp.mean(a, 0), jnp.cov(a, rowvar=False)) for a in (x, y))
    return jnp.asarray(squared_w2(mean_x, cov_x, mean_y, cov_y, xp=jnp))


def variance_ratio(x: Array, y: Array) -> Array:
    """The total variance of the vectors x [n, d] over that of y [m, d]; 1 if no variance is lost."""
    return jnp.sum(jnp.var(x, 0)) / jnp.sum(jnp.var(y, 0))


@dataclass(frozen=True)
class NullInterval:
    """A distance between two sets of real images, which is due to chance: mean and central 95 % interval."""

    mean: float
    low: float
    high: float


def null_interval(distance, key: Array, real: Vectors, strata: np.ndarray, size: int, resamplings: int) -> NullInterval:
    """The floor of `distance(x, y)`, between the first `size` real vectors and the remaining ones.

    The vectors are permuted within their strata `resamplings` times. (Drawing them with replacement would make the
    interval of a U-statistic too wide; permuting across strata would raise the floor of a split that was made class by
    class.)

    Args:
      distance: a function of two sets of vectors.
      key: of the permutations.
      real: [n, d].
      strata: [n], the class of each vector; all equal if there are no classes.
      size: of the first set.
      resamplings: the number of permutations.
    """
    distance = distance if isinstance(distance, Partial) else Partial(distance)
    return interval_of(_dealt(distance, jax.random.split(key, resamplings), real, jnp.asarray(strata), size))


@partial(jax.jit, static_argnames="size")
def _dealt(distance, keys: Array, real: Vectors, strata: Array, size: int) -> Array:
    def once(key):
        dealt = real[deal(key, strata)]
        return distance(dealt[:size], dealt[size:])

    return jax.lax.map(once, keys)


def deal(key: PRNGKey, strata: ArrayLike) -> Array:
    """A random permutation [n] of the indices of n vectors within their strata."""
    by_stratum, labels = jnp.argsort(jnp.asarray(strata), stable=True), jnp.sort(jnp.asarray(strata))
    within = jnp.lexsort((jax.random.uniform(key, labels.shape), labels))
    return jnp.zeros_like(by_stratum).at[by_stratum].set(by_stratum[within])


def interval_of(values: ArrayLike) -> NullInterval:
    """Mean and central 95 % interval of a distance [k] between sets of real images."""
    low, high = np.quantile(values, [0.025, 0.975])
    return NullInterval(float(np.mean(values)), float(low), float(high))
