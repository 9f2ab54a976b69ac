"""A Gaussian target N(mu, Sigma): its flow is known in closed form, for each eigenvalue of Sigma.

With lam an eigenvalue of Sigma and q_t = (1 - t)^2 + t^2 lam the variance of x_t along it,

    X_{s,t}(x) = t mu + sqrt(q_t / q_s) (x - s mu),      D_{s,t}(x) = mu + L(s, t) (x - s mu).

The lookahead is on the optimal distortion-perception frontier exactly if Sigma is isotropic. Otherwise each eigenvalue
moves at a rate of its own, and a small excess remains. The chord is on the frontier for every Sigma. Errors and squared
distances are means per pixel: sums over the coordinates, divided by n = H W C.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.exact.covariance import eigendecomposition, nonnegative, real_array, require_image_shape
from fmdp.exact.pytree import refuse_tracing, register_target
from fmdp.flow.interpolant import expand
from fmdp.flow.times import check_times
from fmdp.types import AverageField, Images, PRNGKey, Time


def marginal_variance(lam: Array, t: Array) -> Array:
    """q_t = (1 - t)^2 + t^2 lam, kept away from zero so that values and derivatives at lam = 0, t = 1 are finite."""
    return jnp.maximum((1 - t) ** 2 + t**2 * lam, jnp.finfo(lam.dtype).eps ** 2)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance) over images [H, W, C]; a pytree.

    Attributes:
      mean: [H, W, C].
      covariance: a scalar variance, an array of the mean's shape (diagonal), or the full [n, n] matrix, n = H W C.
      eigenvalues: [n] of the covariance, float64.
      basis: [n, n], its eigenvectors as columns, or None for a diagonal covariance.

    Raises:
      InputError: a covariance with another shape, or one that is not symmetric positive semidefinite.
    """

    mean: ArrayLike | Sequence
    covariance: ArrayLike | Sequence
    eigenvalues: np.ndarray = field(init=False, repr=False)
    basis: np.ndarray | None = field(init=False, repr=False)

    def __post_init__(self):
        refuse_tracing("exact.Gaussian", self.mean, self.covariance)
        mean, covariance = real_array("the mean", self.mean), real_array("the covariance", self.covariance)
        if mean.ndim != 3:
            raise InputError(f"the mean has shape {mean.shape}: it must be one image [H, W, C]")
        basis = None
        if covariance.shape in ((), mean.shape):
            eigenvalues = nonnegative(np.broadcast_to(covariance, mean.shape).ravel())
        elif covariance.shape == (mean.size, mean.size):
            eigenvalues, basis = eigendecomposition(covariance)
        else:
            remedy = f"pass a variance, an array of shape {mean.shape}, or a matrix {(mean.size, mean.size)}"
            raise InputError(f"the covariance has shape {covariance.shape}: {remedy}")
        for name, value in dict(mean=mean, covariance=covariance, eigenvalues=eigenvalues, basis=basis).items():
            object.__setattr__(self, name, value)

    @property
    def average_field(self) -> AverageField:
        """v(x, s, t) = (X_{s,t}(x) - x) / (t - s), a pytree, smooth across t = s and up to s = t = 1.

        It takes x [..., H, W, C] and 0 <= s <= t <= 1, scalars or of the leading shape of x, and raises InputError for
        other times.
        """
        return Partial(_average_field, self)

    def sample(self, key: PRNGKey, n: int) -> Images:
        """Draws independent images [n, H, W, C]."""
        noise = jax.random.normal(key, (n, *np.shape(self.mean)))
        return jnp.asarray(self.mean, noise.dtype) + self._spectral(noise, jnp.sqrt(self._lam(noise.dtype)))

    def velocity(self, x: Images, t: Time) -> Images:
        """b(x, t) = E[x1 - x0 | x_t = x]."""
        return self.average_field(x, t, t)

    def gain(self, s: Time, t: Time) -> Array:
        """L(s, t) for each eigenvalue, [..., n], by which D_{s,t} multiplies x - s mu; D_{s,s} is Wiener's filter."""
        check_times(s, t)
        s, t = jnp.asarray(s, float), jnp.asarray(t, float)
        return 1 + (1 - s[..., None]) * self._slope(s, t)

    def mmse(self, s: Time) -> Array:
        """E||x1 - D_{s,s}||^2 / n, the least mean squared error per pixel, with the shape of s."""
        check_times(s)
        s = jnp.asarray(s, float)[..., None]
        lam = self._lam(s.dtype)
        return jnp.mean((1 - s) ** 2 * lam / marginal_variance(lam, s), -1)

    def mse(self, s: Time, t: Time) -> Array:
        """E||x1 - D_{s,t}||^2 / n per pixel."""
        added = (self.gain(s, t) - self.gain(s, s)) ** 2 * self._marginal(s)
        return self.mmse(s) + jnp.mean(added, -1)

    def squared_w2(self, s: Time, t: Time) -> Array:
        """W2^2(law of D_{s,t}, target) / n per pixel; at t = s the square of P*."""
        sd = self.gain(s, t) * jnp.sqrt(self._marginal(s))
        return jnp.mean((jnp.sqrt(self._lam(sd.dtype)) - sd) ** 2, -1)

    def p_star(self, s: Time) -> Array:
        """P* = W2(law of D_{s,s}, target) / sqrt(n), where the frontier D(P) = mmse + [(P* - P)_+]^2 meets the MMSE."""
        return jnp.sqrt(self.squared_w2(s, s))

    def _lam(self, dtype) -> Array:
        return jnp.asarray(self.eigenvalues, dtype)

    def _marginal(self, s: Time) -> Array:
        s = jnp.asarray(s, float)[..., None]
        return marginal_variance(self._lam(s.dtype), s)

    def _slope(self, s: Array, t: Array) -> Array:
        """(sqrt(q_t / q_s) - 1) / (t - s) for each eigenvalue, with the factor t - s of q_t - q_s cancelled by hand."""
        s, t = s[..., None], t[..., None]
        lam = self._lam(s.dtype)
        root_s, root_t = (jnp.sqrt(marginal_variance(lam, time)) for time in (s, t))
        return ((s + t) * lam - (2 - s - t)) / (root_s * (root_s + root_t))

    def _spectral(self, x: Array, gains: Array) -> Array:
        """The matrix with the given eigenvalues [..., n] in the basis of the covariance, applied to images x."""
        flat = x.reshape(*x.shape[:-3], -1)
        if self.basis is None:
            return (flat * gains).reshape(x.shape)
        basis = jnp.asarray(self.basis, x.dtype)
        return ((flat @ basis * gains) @ basis.T).reshape(x.shape)


def _average_field(target: Gaussian, x: Array, s: Time, t: Time) -> Array:
    check_times(s, t)
    require_image_shape(x, np.shape(target.mean))
    s, t = jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype)
    mean = jnp.asarray(target.mean, x.dtype)
    return mean + target._spectral(x - expand(s, x) * mean, target._slope(s, t))


register_target(Gaussian, ("mean", "covariance", "eigenvalues", "basis"))
