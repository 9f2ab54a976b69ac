"""A Gaussian mixture target: its posterior mean and velocity are closed form, its flow takes an ODE solve.

A mixture fitted to real images is a known distribution that looks like them. Its exact field, MMSE and curve are known,
so that a learned field can be measured against the truth. Errors are means per pixel, as in `gaussian`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.exact.covariance import eigendecomposition
from fmdp.exact.gaussian import marginal_variance
from fmdp.exact.pytree import register_target
from fmdp.flow.times import check_times
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
        other times.
        """
        return Partial(_average_field, self)

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
        return self._solve(_draw, jax.random.normal(noise_key, (n, *self.image_shape)), labels)

    def posterior_mean(self, x: Images, s: Time) -> Images:
        """E[x1 | x_s = x], the minimum-error estimate D_{s,s}, of the shape of x."""
        return x + (1 - jnp.asarray(s, x.dtype))[..., None, None, None] * self.velocity(x, s)

    def velocity(self, x: Images, t: Time) -> Images:
        """b(x, t) = E[x1 - x0 | x_t = x]."""
        check_times(t)
        return self._solve(_velocity, x, _spread(t, x))

    def denoise_along(self, x: Images, s: Time, times: ArrayLike) -> Array:
        """D_{s,t}(x) for all of the ascending `times` [T] (all >= s) from a single trajectory: [T, ..., H, W, C].

        Its steps end on every one of the times, so nothing is interpolated; ten times cost about two single solves.
        """
        check_times(s, *np.asarray(times).tolist())
        estimates = self._solve(_along, x, _spread(s, x), shared=jnp.asarray(times, x.dtype))
        return jnp.moveaxis(estimates.reshape(*x.shape[:-3], -1, *self.image_shape), x.ndim - 3, 0)

    def mmse(self, key: PRNGKey, s: float, n: int = 4000) -> tuple[float, float]:
        """E||x1 - D_{s,s}||^2 / pixels and its standard error, by Monte Carlo over n noisy images.

        Averages the closed-form posterior variance, whose spread is far smaller than that of the squared error.
        """
        check_times(s)
        if n < 2:
            raise InputError(f"{n} samples are too few for a standard error: ask for at least 2")
        data_key, noise_key = jax.random.split(key)
        x = s * self.sample(data_key, n, stratified=True)
        x = x + (1 - s) * jax.random.normal(noise_key, x.shape)
        variance = np.asarray(self._solve(_posterior_variance, x, _spread(s, x)), np.float64)
        return float(variance.mean()), float(variance.std(ddof=1) / math.sqrt(n))

    def _solve(self, function: Callable, x: Array, *each: Array, shared: Array | None = None) -> Array:
        return _in_chunks(function, self._components(x.dtype), x, *each, shared=shared)

    def _components(self, dtype) -> "_Components":
        """The components as arrays of this type, on the device; kept where the mixture's own values are known."""
        if isinstance(self.bases, jax.core.Tracer):
            return _prepare(self, jnp, dtype)
        kept = self.__dict__.setdefault("_kept", {})
        if dtype not in kept:
            with jax.ensure_compile_time_eval():
                kept[dtype] = _prepare(self, np, dtype)
        return kept[dtype]


_STATIC = ("image_shape", "tolerance", "chunk", "adjoint")
register_target(GaussianMixture, ("weights", "means", "covariances", "eigenvalues", "bases"), _STATIC)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Components:
    """What the compiled functions below use of a mixture; those of equal shape share one compilation.

    `bases` are [n, K, n], all side by side so that one product rotates into all of them; `rotated` are the means in
    their bases, [K, n].
    """

    log_weights: Array
    means: Array
    eigenvalues: Array
    roots: Array
    bases: Array
    rotated: Array
    image_shape: tuple[int, int, int] = field(metadata=dict(static=True))
    tolerance: float = field(metadata=dict(static=True))
    chunk: int = field(metadata=dict(static=True))
    adjoint: diffrax.AbstractAdjoint = field(metadata=dict(static=True))


def _prepare(mixture: GaussianMixture, xp: ModuleType, dtype) -> _Components:
    """The components, computed by numpy in float64 or, under a transformation, by jax.numpy."""
    arrays = dict(
        log_weights=xp.log(mixture.weights),
        means=mixture.means,
        eigenvalues=mixture.eigenvalues,
        roots=xp.sqrt(mixture.eigenvalues),
        bases=xp.swapaxes(mixture.bases, 0, 1),
        rotated=xp.einsum("kij,ki->kj", mixture.bases, mixture.means),
    )
    fields: dict[str, Any] = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    return _Components(**fields, **{name: getattr(mixture, name) for name in _STATIC})


@partial(jax.jit, static_argnums=0)
def _in_chunks(function: Callable, c: _Components, x: Array, *each: Array, shared: Array | None = None) -> Array:
    """`function(c, x [n], *each)` for every query, in equal chunks of at most `c.chunk`; vectors become images."""
    batch = x.shape[:-3]
    size = math.prod(batch)
    count = max(1, -(-size // c.chunk))
    width = -(-size // count)
    # The last chunk is filled up with repeats, so that one program serves all.
    fill = jnp.minimum(jnp.arange(count * width), size - 1).reshape(count, width)
    queries = [a.reshape(size, *a.shape[len(batch) :])[fill] for a in (x.reshape(*batch, -1), *each)]
    extra = () if shared is None else (shared,)
    solve = jax.vmap(lambda *query: function(c, *query, *extra))
    out = solve(*(q[0] for q in queries))[None] if count == 1 else jax.lax.map(lambda q: solve(*q), tuple(queries))
    out = out.reshape(count * width, *out.shape[2:])[:size]
    return out.reshape(*batch, *(c.image_shape if out.ndim == 2 else out.shape[1:]))


def _average_field(mixture: GaussianMixture, x: Array, s: Time, t: Time) -> Array:
    check_times(s, t)
    return mixture._solve(_average, x, _spread(s, x), _spread(t, x))


def _spread(time: Time, x: Array) -> Array:
    return jnp.broadcast_to(jnp.asarray(time, x.dtype), x.shape[:-3])


def _draw(c: _Components, noise: Array, label: Array) -> Array:
    return c.means[label] + c.bases[:, label] @ (c.roots[label] * noise)


def _along(c: _Components, x: Array, s: Array, times: Array) -> Array:
    """D_{s,t}(x) at all times [T], [T, n]: v(x, s, t) is what has been gathered by then, divided by the share."""
    shares = jnp.clip((times - s) / jnp.where(s < 1, 1 - s, 1), 0, 1)
    gathered = _mean_velocity(c, x, s, jnp.ones_like(s), shares)
    near = shares[:, None] > 0
    v = jnp.where(near, gathered / jnp.where(near, shares[:, None], 1), _velocity(c, x, s))
    return x + (1 - s) * v


def _posterior(c: _Components, x: Array, t: Array) -> tuple[Array, Array, Array]:
    """Responsibilities [K], E[x1 - x0 | x, k] less the component's mean in its basis [K, n], and q [K, n]."""
    q = marginal_variance(c.eigenvalues, t)
    y = jnp.einsum("i,ikj->kj", x, c.bases) - t * c.rotated
    share = jax.nn.softmax(c.log_weights - (y**2 / q + jnp.log(q)).sum(-1) / 2)
    return share, (t * c.eigenvalues - (1 - t)) / q * y, q


def _velocity(c: _Components, x: Array, t: Array) -> Array:
    share, rotated, _ = _posterior(c, x, t)
    return share @ c.means + jnp.einsum("ikj,kj->i", c.bases, share[:, None] * rotated)


def _posterior_variance(c: _Components, x: Array, t: Array) -> Array:
    share, rotated, q = _posterior(c, x, t)
    centres = x + (1 - t) * (c.means + jnp.einsum("ikj,kj->ki", c.bases, rotated))
    within = (1 - t) ** 2 * c.eigenvalues / q
    between = (centres - share @ centres) ** 2
    return share @ (within + between).mean(-1)


def _average(c: _Components, x: Array, s: Array, t: Array) -> Array:
    return _mean_velocity(c, x, s, t, None)[0]


def _mean_velocity(c: _Components, x: Array, s: Array, t: Array, shares: Array | None) -> Array:
    """dv/du = b(x + (t - s) v, s + u (t - s)) for u from 0 to 1, at the `shares` u or at the end: [T, n] or [1, n].

    There is no division by t - s, so that the end is exact at t = s. Steps end on every share: nothing is interpolated.
    """

    def speed(u, v, _):
        return _velocity(c, x + (t - s) * v, s + u * (t - s))

    controller = diffrax.PIDController(rtol=c.tolerance, atol=c.tolerance)
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
        adjoint=c.adjoint,
        max_steps=4096,
    )
    assert solution.ys is not None
    return solution.ys
