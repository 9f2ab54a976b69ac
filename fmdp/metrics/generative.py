"""Scores of generative models: distances between two sets of network features, of restored and of real images."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.exact.wasserstein import squared_w2_of_factors
from fmdp.metrics.perception import Vectors, squared_distances
from fmdp.types import PRNGKey

FID_IMAGES = 2048  # with fewer, the covariance of 2,048 features is singular and the distance is mostly error
SUBSETS = 100
SUBSET_SIZE = 1000
NEIGHBOURS = 3
ROWS = 512  # of a matrix of distances, in memory at a time


class Moments(NamedTuple):
    """The moments of features [n, d] for the Fréchet distance, in float64.

    Attributes:
      images: n.
      mean: [d].
      factor: F [min(n, d), d], with F' F their covariance.
    """

    images: int
    mean: np.ndarray
    factor: np.ndarray


def moments(x: ArrayLike) -> Moments:
    """The moments of features [n, d]."""
    rows = np.asarray(x, np.float64)
    n, d = rows.shape
    mean = rows.mean(0)
    factor = (rows - mean) / np.sqrt(n - 1)
    return Moments(n, mean, factor if n <= d else np.asarray(np.linalg.qr(factor, mode="r")))


def fid(x: Moments, y: Moments, small: bool = False) -> float:
    """The Fréchet distance of two sets of Inception's features, from their moments (Heusel et al., arXiv 1706.08500).

    Raises:
      InputError: a set has fewer than 2,048 images, and `small` is False.
    """
    least = min(x.images, y.images)
    if least < FID_IMAGES and not small:
        raise InputError(f"FID of {least} images: below {FID_IMAGES} it is mostly bias; use KID, or small=True for it")
    return frechet(x, y)


def frechet(x: Moments, y: Moments) -> float:
    """The Fréchet distance of two sets of features of any network, from their moments.

    Its upward bias depends on the size of the sets: compare only values for equal sizes, and show the value between two
    sets of real images beside them. With fewer images than features it is mostly bias.
    """
    return float(squared_w2_of_factors(x.mean, x.factor, y.mean, y.factor))


def kid(key: PRNGKey, x: Vectors, y: Vectors, size: int | None = None, subsets: int = SUBSETS) -> tuple[float, float]:
    """The kernel inception distance (Binkowski et al. 2018): mean and standard deviation over random subsets.

    On the features of another network it is the same estimate of another distance, and needs another name.

    It is the unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3.

    Args:
      key: of the subsets, which are drawn without replacement.
      x, y: features [n, d] and [m, d].
      size: of the subsets of x and of y; by default 1,000, or half of the smaller set if that is less. A subset has to
        leave out some images, or all subsets are equal and their deviation means nothing. With halves, the deviation is
        the standard error of the mean if the sets differ, and sqrt(3) times it if they do not; with smaller subsets it
        is larger.
      subsets: their number.

    Raises:
      InputError: the size is not between 2 and that of the smaller set.
    """
    least = min(len(x), len(y))
    size = min(SUBSET_SIZE, least // 2) if size is None else size
    if not 2 <= size < least:
        raise InputError(f"KID of subsets of {size} out of {least} images: a subset must have 2 or more, but not all")
    values = np.asarray(_polynomial_distances(key, x, y, size, subsets), np.float64)
    return float(values.mean()), float(values.std())


@partial(jax.jit, static_argnames=("size", "subsets"))
def _polynomial_distances(key: PRNGKey, x: Array, y: Array, size: int, subsets: int) -> Array:
    def kernel(a, b):
        return (jnp.matmul(a, b.T, precision="highest") / a.shape[-1] + 1) ** 3

    def within(a):
        values = kernel(a, a)
        return (jnp.sum(values) - jnp.trace(values)) / (size * (size - 1))

    def once(key):
        keys = jax.random.split(key)
        a, b = (rows[jax.random.choice(k, len(rows), (size,), False)] for k, rows in zip(keys, (x, y), strict=True))
        return within(a) + within(b) - 2 * jnp.mean(kernel(a, b))

    return jax.lax.map(once, jax.random.split(key, subsets))


class Manifold(NamedTuple):
    """A ball around every vector of a set [n, d] with the distance to its k-th neighbour as radius, squared [n]."""

    centres: Array
    squared_radii: Array


@partial(jax.jit, static_argnames="neighbours")
def manifold(x: Array, neighbours: int = NEIGHBOURS) -> Manifold:
    """The estimated support of the distribution of vectors [n, d].

    Raises:
      InputError: there are not more vectors than neighbours.
    """
    if len(x) <= neighbours:
        raise InputError(f"precision and recall of {len(x)} images: {neighbours + 1} or more are needed")

    def squared_radius(row):
        nearest, _ = jax.lax.top_k(-squared_distances(row[None], x)[0], neighbours + 1)  # itself is among them
        return -nearest[-1]

    return Manifold(x, jax.lax.map(squared_radius, x, batch_size=ROWS))


@jax.jit
def covered(x: Array, support: Manifold) -> Array:
    """The share of vectors [n, d] inside a manifold: precision for restored in real, recall for real in restored ones.

    Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 2.
    """

    def inside(row):
        return jnp.any(squared_distances(row[None], support.centres)[0] <= support.squared_radii)

    return jnp.mean(jax.lax.map(inside, x, batch_size=ROWS))
