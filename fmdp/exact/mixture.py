"""A Gaussian mixture target: closed-form posterior mean, hence a closed-form velocity; the flow by an ODE solve.

A mixture fitted to real images is a known distribution that looks like them, so the exact field, MMSE and curve
are known, and a learned field can be measured against the truth. Errors are means per pixel, as in `gaussian`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import sklearn.mixture
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.exact.covariance import eigendecomposition
from fmdp.exact.gaussian import marginal_variance
from fmdp.flow.times import check_times
from fmdp.types import Images, PRNGKey, Time


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_k weights_k N(means_k, covariances_k) over images.

    Attributes:
      weights: [K], positive, normalised here.
      means: [K, n] or [K, H, W, C], n = H W C.
      covariances: [K, n, n].
      image_shape: (H, W, C).
      tolerance: relative and absolute local error of the ODE solve; the global error of the flow stays within
        a few hundred times it at worst, a few times it in the mean square (on the digits' mixture at s = .3 and the
        default: 2e-4 and 3e-6; in float32 4e-4 and 6e-6).
      chunk: queries solved at once.
      adjoint: how diffrax differentiates the solve: forward mode here (jvp, no reverse mode);
        `diffrax.RecursiveCheckpointAdjoint()` gives reverse mode instead.
      eigenvalues, bases: [K, n] and [K, n, n] (columns), float64.

    Raises:
      InputError: shapes that do not fit, weights that are not positive, or a covariance that is not symmetric
        positive semidefinite.
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
        weights, covariances = np.asarray(self.weights, np.float64), np.asarray(self.covariances, np.float64)
        k, n = weights.size, math.prod(self.image_shape)
        if weights.ndim != 1 or not np.all(weights > 0):
            raise InputError(f"mixture weights {weights} must be a vector of positive numbers: drop empty components")
        if np.size(self.means) != k * n or covariances.shape != (k, n, n):
            raise InputError(
                f"means {np.shape(self.means)} and covariances {covariances.shape} do not fit {k} components of "
                f"images {self.image_shape}: they must be {(k, n)} and {(k, n, n)}"
            )
        eigenvalues, bases = zip(*map(eigendecomposition, covariances), strict=True)
        values = dict(
            weights=weights / weights.sum(),
            means=np.asarray(self.means, np.float64).reshape(k, n),
            covariances=covariances,
            eigenvalues=np.stack(eigenvalues),
            bases=np.stack(bases),
        )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def fit(cls, images: ArrayLike, components: int = 10, *, ridge: float = 0.01, seed: int = 0, **kwargs):
        """The maximum-likelihood mixture of full covariances, by scikit-learn's EM.

        Args:
          images: [N, H, W, C].
          components: number of Gaussians.
          ridge: added to every covariance's diagonal (on the [-1, 1] scale, 0.01 suits the digits).
          seed: of the k-means start.
          kwargs: further attributes of the mixture.

        Raises:
          InputError: fewer than two images per component.
        """
        images = np.asarray(images, np.float64)
        if images.ndim != 4 or len(images) < 2 * components:
            raise InputError(
                f"images of shape {images.shape} are too few for {components} components: "
                f"pass at least {2 * components} images [N, H, W, C], or ask for fewer components"
            )
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

    def sample(self, key: PRNGKey, n: int, *, stratified: bool = False) -> Images:
        """Draws images [n, H, W, C], in random order.

        Args:
          stratified: gives every component its share of the n labels to within one, which takes the largest part of
            the sampling error out of distances between distributions.
        """
        label_key, order_key, noise_key = jax.random.split(key, 3)
        points = jax.random.uniform(label_key, () if stratified else (n,))
        if stratified:
            points = jax.random.permutation(order_key, (jnp.arange(n) + points) / n)
        labels = jnp.searchsorted(jnp.asarray(np.cumsum(self.weights)[:-1], points.dtype), points)
        return self._map(GaussianMixture._draw, jax.random.normal(noise_key, (n, *self.image_shape)), labels)

    def posterior_mean(self, x: Images, s: Time) -> Images:
        """E[x1 | x_s = x], the minimum-error estimate D_{s,s}, of the shape of x."""
        return x + (1 - jnp.asarray(s, x.dtype))[..., None, None, None] * self.velocity(x, s)

    def velocity(self, x: Images, t: Time) -> Images:
        """b(x, t) = E[x1 - x0 | x_t = x]."""
        check_times(t)
        return self._map(GaussianMixture._velocity, x, self._spread(t, x))

    def average_field(self, x: Images, s: Time, t: Time) -> Images:
        """v(x, s, t), an `AverageField`, by an adaptive solve with the attribute `tolerance`; exact at t = s.

        Args:
          x: [..., H, W, C].
          s, t: 0 <= s <= t <= 1, scalars or of the leading shape of x.
        """
        check_times(s, t)
        return self._map(GaussianMixture._average, x, self._spread(s, x), self._spread(t, x))

    def denoise_along(self, x: Images, s: Time, times: ArrayLike) -> Array:
        """D_{s,t}(x) for all of the ascending `times` [T] (all >= s) from a single trajectory: [T, ..., H, W, C].

        Its steps end on every one of the times, so nothing is interpolated; ten times cost about two single solves.
        """
        check_times(s, *np.asarray(times).tolist())

        estimates = self._map(GaussianMixture._along, x, self._spread(s, x), shared=jnp.asarray(times, x.dtype))
        return jnp.moveaxis(estimates.reshape(*x.shape[:-3], -1, *self.image_shape), x.ndim - 3, 0)

    def mmse(self, key: PRNGKey, s: float, n: int = 4000) -> tuple[float, float]:
        """E||x1 - D_{s,s}||^2 / pixels and its standard error, by Monte Carlo over n noisy images.

        Averages the closed-form posterior variance, whose spread is far less than that of the squared error.
        """
        check_times(s)
        if n < 2:
            raise InputError(f"{n} samples are too few for a standard error: ask for at least 2")
        data_key, noise_key = jax.random.split(key)
        x = s * self.sample(data_key, n, stratified=True)
        x = x + (1 - s) * jax.random.normal(noise_key, x.shape)
        variance = np.asarray(self._map(GaussianMixture._posterior_variance, x, self._spread(s, x)), np.float64)
        return float(variance.mean()), float(variance.std(ddof=1) / math.sqrt(n))

    def _spread(self, time: Time, x: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(time, x.dtype), x.shape[:-3])

    @partial(jax.jit, static_argnums=(0, 1))
    def _map(self, function: Callable, x: Array, *each: Array, shared: Array | None = None) -> Array:
        """`function(self, x [n], *each)` for every query, in equal chunks of at most `chunk`; vectors become images."""
        batch = x.shape[:-3]
        size = math.prod(batch)
        count = max(1, -(-size // self.chunk))
        width = -(-size // count)
        # The last chunk is filled up with repeats, so that one program serves all.
        fill = jnp.minimum(jnp.arange(count * width), size - 1).reshape(count, width)
        queries = [a.reshape(size, *a.shape[len(batch) :])[fill] for a in (x.reshape(*batch, -1), *each)]
        extra = () if shared is None else (shared,)
        solve = jax.vmap(lambda *query: function(self, *query, *extra))
        out = solve(*(q[0] for q in queries))[None] if count == 1 else jax.lax.map(lambda q: solve(*q), tuple(queries))
        out = out.reshape(count * width, *out.shape[2:])[:size]
        return out.reshape(*batch, *(self.image_shape if out.ndim == 2 else out.shape[1:]))

    def _draw(self, noise: Array, label: Array) -> Array:
        means, roots, bases = (jnp.asarray(a, noise.dtype) for a in (self.means, np.sqrt(self.eigenvalues), self.bases))
        return means[label] + bases[label] @ (roots[label] * noise)

    def _along(self, x: Array, s: Array, times: Array) -> Array:
        """D_{s,t}(x) at all times [T], [T, n]: v(x, s, t) is what has been gathered by then, divided by the share."""
        shares = jnp.clip((times - s) / jnp.where(s < 1, 1 - s, 1), 0, 1)
        gathered = self._mean_velocity(x, s, jnp.ones_like(s), shares)
        near = shares[:, None] > 0
        v = jnp.where(near, gathered / jnp.where(near, shares[:, None], 1), self._velocity(x, s))
        return x + (1 - s) * v

    def _posterior(self, x: Array, t: Array):
        """Responsibilities [K], E[x1 - x0 | x, k] less the component's mean in its basis [K, n], and q [K, n]."""
        lam, bases, means = (jnp.asarray(a, x.dtype) for a in (self.eigenvalues, self.bases, self.means))
        q = marginal_variance(lam, t)
        # One product with all bases side by side; the means are rotated beforehand.
        rotated = jnp.asarray(np.einsum("kij,ki->kj", self.bases, self.means), x.dtype)
        y = jnp.einsum("i,kij->kj", x, bases) - t * rotated
        log_weights = jnp.asarray(np.log(self.weights), x.dtype)
        share = jax.nn.softmax(log_weights - (y**2 / q + jnp.log(q)).sum(-1) / 2)
        return share, (t * lam - (1 - t)) / q * y, q, (lam, bases, means)

    def _velocity(self, x: Array, t: Array) -> Array:
        share, rotated, _, (_, bases, means) = self._posterior(x, t)
        return share @ means + jnp.einsum("kij,kj->i", bases, share[:, None] * rotated)

    def _posterior_variance(self, x: Array, t: Array) -> Array:
        share, rotated, q, (lam, bases, means) = self._posterior(x, t)
        centres = x + (1 - t) * (means + jnp.einsum("kij,kj->ki", bases, rotated))
        within = (1 - t) ** 2 * lam / q
        between = (centres - share @ centres) ** 2
        return share @ (within + between).mean(-1)

    def _average(self, x: Array, s: Array, t: Array) -> Array:
        return self._mean_velocity(x, s, t, None)[0]

    def _mean_velocity(self, x: Array, s: Array, t: Array, shares: Array | None) -> Array:
        """dv/du = b(x + (t - s) v, s + u (t - s)) for u from 0 to 1, at the `shares` u or at the end: [T, n] or [1, n].

        No division by t - s, so that the end is exact at t = s. Steps end on every share: nothing is interpolated.
        """

        def speed(u, v, _):
            return self._velocity(x + (t - s) * v, s + u * (t - s))

        controller = diffrax.PIDController(rtol=self.tolerance, atol=self.tolerance)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(speed),
            diffrax.Tsit5(),
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=jnp.zeros_like(x),
            saveat=diffrax.SaveAt(t1=True) if shares is None else diffrax.SaveAt(ts=shares),
            stepsize_controller=controller
            if shares is None
            else diffrax.ClipStepSizeController(controller, step_ts=shares),
            adjoint=self.adjoint,
            max_steps=4096,
        )
        assert solution.ys is not None
        return solution.ys
