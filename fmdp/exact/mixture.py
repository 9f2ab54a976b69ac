"""A Gaussian mixture target: its posterior mean and velocity are closed form, its flow takes an ODE solve.

A mixture fitted to real images is a known distribution that looks like them. Its exact field, MMSE and curve are known,
so that a learned field can be measured against the truth. Errors are means per pixel, as in `gaussian`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.exact import components
from fmdp.exact.covariance import eigendecomposition, real_array, require_image_shape
from fmdp.exact.pytree import refuse_tracing, register_target
from fmdp.flow.times import broadcast_times, check_times
from fmdp.types import AverageField, Images, PRNGKey, Time


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k weights_k N(means_k, covariances_k) over images; a pytree.

    Attributes:
      weights: [K], positive, normalised here.
      means: [K, n] or [K, H, W, C], n = H W C.
      covariances: [K, n, n].
      image_shape: (H, W, C).
      tolerance: relative and absolute local error of the ODE solve. The global error of the flow is at most a few
        hundred times as large, and a few times as large in the mean square (on the digits' mixture at s = .3 and the
        default: 2e-4 and 3e-6; in float32 4e-4 and 6e-6).
      chunk: how many queries are solved at once.
      adjoint: how diffrax differentiates the solve: in forward mode (jvp) by default;
        `diffrax.RecursiveCheckpointAdjoint()` gives reverse mode instead.
      eigenvalues, bases: [K, n] and [K, n, n] (columns), float64.

    Raises:
      InputError: shapes do not fit, weights are not positive, or a covariance is not symmetric positive semidefinite.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    image_shape: tuple[int, int, int]
    tolerance: float = 1e-6
    chunk: int = 512
    adjoint: diffrax.AbstractAdjoint = field(default_factory=diffrax.ForwardMode)
    eigenvalues: np.ndarray = field(init=False, repr=False)
    bases: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        refuse_tracing("exact.Mixture", self.weights, self.means, self.covariances)
        weights, covariances = real_array("the weights", self.weights), real_array("the covariances", self.covariances)
        k, n = weights.size, math.prod(self.image_shape)
        if weights.ndim != 1 or not np.all(weights > 0):
            raise InputError(f"mixture weights {weights} must be a vector of positive numbers: drop empty components")
        if (shapes := (np.size(self.means), covariances.shape)) != (k * n, (k, n, n)):
            found = f"means of size {shapes[0]} and covariances of shape {shapes[1]}"
            raise InputError(f"{found} do not fit {k} components: they must have {k * n} numbers and shape {(k, n, n)}")
        eigenvalues, bases = zip(*map(eigendecomposition, covariances), strict=True)
        values = dict(
            weights=weights / weights.sum(),
            means=real_array("the means", self.means).reshape(k, n),
            covariances=covariances,
            eigenvalues=np.stack(eigenvalues),
            bases=np.stack(bases),
        )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def fit(cls, images: ArrayLike, components: int = 10, *, ridge: float = 0.01, seed: int = 0, **kwargs):
        """The maximum-likelihood mixture with full covariances, by the EM algorithm of scikit-learn.

        Args:
          images: [N, H, W, C].
          components: number of Gaussians.
          ridge: added to the diagonals of the covariances; 0.01 suits the digits on the [-1, 1] scale.
          seed: of the k-means initialisation.
          kwargs: further attributes of the mixture.

        Raises:
          InputError: fewer than two images per component.
        """
        images = np.asarray(images, np.float64)
        if images.ndim != 4 or len(images) < 2 * components:
            few = f"images of shape {images.shape} are too few for {components} components"
            raise InputError(f"{few}: pass at least {2 * components} images [N, H, W, C], or fit fewer components")
        import sklearn.mixture  # slow to import, and needed only here

        em = sklearn.mixture.GaussianMixture(components, reg_covar=ridge, random_state=seed, max_iter=500)
        em.fit(images.reshape(len(images), -1))
        h, w, c = images.shape[1:]
        return cls(em.weights_, em.means_, em.covariances_, (h, w, c), **kwargs)

    @property
    def mean(self) -> np.ndarray:
        """E[x1], [n]."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """Cov(x1), [n, n]."""
        centred = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances) + (centred.T * self.weights) @ centred

    @property
    def average_field(self) -> AverageField:
        """v(x, s, t), a pytree, by an adaptive solve to the attribute `tolerance`; exact at t = s.

        It takes x [..., H, W, C] and 0 <= s <= t <= 1, scalars or of the leading shape of x, and raises InputError for
        other times, and where a solve does not reach its end. Under a transformation, the result is then not a number.
        """
        return Partial(_average_field, self)

    def sample(self, key: PRNGKey, n: int, *, stratified: bool = False) -> Images:
        """Draws images [n, H, W, C], in random order.

        Args:
          stratified: whether to give every component its share of the n labels, to within one. This removes most of the
            sampling error from distances between distributions.
        """
        label_key, order_key, noise_key = jax.random.split(key, 3)
        points = jax.random.uniform(label_key, () if stratified else (n,))
        if stratified:
            points = jax.random.permutation(order_key, (jnp.arange(n) + points) / n)
        labels = jnp.searchsorted(jnp.asarray(np.cumsum(self.weights)[:-1], points.dtype), points)
        return self._solve(components.draw, jax.random.normal(noise_key, (n, *self.image_shape)), labels)

    def posterior_mean(self, x: Images, s: Time) -> Images:
        """E[x1 | x_s = x], the minimum-error estimate D_{s,s}, with the shape of x."""
        return x + (1 - jnp.asarray(s, x.dtype))[..., None, None, None] * self.velocity(x, s)

    def velocity(self, x: Images, t: Time) -> Images:
        """b(x, t) = E[x1 - x0 | x_t = x]."""
        return self._solve(components.velocity, x, *broadcast_times(x, t))

    def denoise_along(self, x: Images, s: Time, times: ArrayLike) -> Array:
        """D_{s,t}(x) at all of the ascending `times` [T] >= s, from a single trajectory: [T, ..., H, W, C].

        A solve ends at each of the times and the next goes on from there, so that nothing is interpolated.
        """
        check_times(s, *np.asarray(times).tolist())
        estimates = self._solve(components.along, x, *broadcast_times(x, s), shared=jnp.asarray(times, x.dtype))
        return jnp.moveaxis(estimates.reshape(*x.shape[:-3], -1, *self.image_shape), x.ndim - 3, 0)

    def mmse(self, key: PRNGKey, s: float, n: int = 4000) -> tuple[float, float]:
        """E||x1 - D_{s,s}||^2 / pixels and its standard error, by Monte Carlo over n noisy images.

        Averages the closed-form posterior variance, whose spread is far smaller than that of the squared error.
        """
        if n < 2:
            raise InputError(f"{n} samples are too few for a standard error: ask for at least 2")
        data_key, noise_key = jax.random.split(key)
        x = s * self.sample(data_key, n, stratified=True)
        x = x + (1 - s) * jax.random.normal(noise_key, x.shape)
        variance = np.asarray(self._solve(components.posterior_variance, x, *broadcast_times(x, s)), np.float64)
        return float(variance.mean()), float(variance.std(ddof=1) / math.sqrt(n))

    def _solve(self, function: Callable, x: Array, *each: Array, shared: Array | None = None) -> Array:
        found = components.in_chunks(function, self._components(x.dtype), x, *each, shared=shared)
        if not isinstance(found, jax.core.Tracer) and jnp.isnan(found).any():
            reason = f"the images are not finite, or {components.MAX_STEPS} steps were not enough"
            raise InputError(
                f"the exact flow has no end at tolerance={self.tolerance:g} ({reason}): raise the tolerance"
            )
        return found

    def _components(self, dtype) -> components.Components:
        """The components as arrays of this type on the device, computed once if the values are known."""
        if isinstance(self.bases, jax.core.Tracer):
            return components.prepare(self, jnp, dtype)
        kept = self.__dict__.setdefault("_kept", {})
        if dtype not in kept:
            with jax.ensure_compile_time_eval():
                kept[dtype] = components.prepare(self, np, dtype)
        return kept[dtype]


def _average_field(mixture: GaussianMixture, x: Array, s: Time, t: Time) -> Array:
    require_image_shape(x, tuple(mixture.image_shape))
    return mixture._solve(components.average, x, *broadcast_times(x, s, t))


register_target(GaussianMixture, ("weights", "means", "covariances", "eigenvalues", "bases"), components.STATIC)
