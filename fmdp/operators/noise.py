"""Noise models, and the observation y = H(x) with noise that every solver receives.

A noise model draws y and computes its negative log-likelihood, from the same distribution. Images, measurements and
noise levels are on the [-1, 1] scale.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln
from jax.typing import ArrayLike

from fmdp.errors import InputError, Range, require_in_range, require_key, translating
from fmdp.flow.dtypes import ARRAYS, as_float, in_type
from fmdp.operators.base import Operator, operator, require_measurement
from fmdp.types import Image, PRNGKey, Scalar


@runtime_checkable
class Noise(Protocol):
    """The distribution of a measurement y given its noiseless prediction H(x), which has the same shape."""

    @property
    def variance(self) -> Any:
        """Of one entry of y (at mid-grey if it depends on the signal); 2 variance nll compares to ||y - H(x)||^2."""

    def draw(self, clean: Array, key: PRNGKey) -> Array:
        """A measurement."""

    def negative_log_likelihood(self, prediction: Array, y: Array) -> Scalar:
        """-log p(y | prediction), summed over the entries of y."""


class _Positive:
    """A dataclass of positive numbers, each on the [-1, 1] scale of images or a count.

    Each is one number, or an array that broadcasts to y: one number for each pixel [H, W, 1], say. Solvers then weigh
    the entries of y by their precision, relative to the most precise one. For a batch, apply `jax.vmap`.
    """

    accepted = Range(0, excluded=0)

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, list | tuple | complex) or (isinstance(value, ARRAYS) and not _is_plain(value)):
                object.__setattr__(self, name, as_float(value, name=f"{type(self).__name__}: {name}"))
        require_in_range(type(self).__name__, dict.fromkeys(vars(self), self.accepted), vars(self))


def _is_plain(value: Any) -> bool:
    """Whether JAX computes with this array as it is: of floats of at most 64 bits, in the byte order of the machine."""
    if isinstance(value, jax.Array):
        return not jnp.issubdtype(value.dtype, jnp.integer)
    floats = value.dtype.kind == "f" and value.dtype.isnative and value.dtype.itemsize <= 8
    return floats and not isinstance(value, np.ma.MaskedArray)


SMALLEST_SIGMA = 1e-12
"""Solvers take less Gaussian noise for this, far below what float32 resolves, so that its precision is finite."""


@operator
class GaussianNoise(_Positive):
    """y = H(x) + sigma n; sigma >= 0 on the [-1, 1] scale (0.05 is 6.4 of 255).

    0 is no noise: solvers take it, and everything below `SMALLEST_SIGMA`, for that. Where sigma is an argument of
    compiled code, which hides its value, it has to be at least `SMALLEST_SIGMA`.
    """

    accepted = Range(0)
    sigma: Any

    @property
    def variance(self):
        """sigma^2."""
        return self.sigma**2

    def draw(self, clean: Array, key: PRNGKey) -> Array:
        """The clean measurement plus independent normal noise."""
        return clean + self.sigma * jax.random.normal(key, clean.shape, clean.dtype)

    def negative_log_likelihood(self, prediction: Array, y: Array) -> Scalar:
        """||y - prediction||^2 / (2 sigma^2) + m log(sigma sqrt(2 pi))."""
        return jnp.sum(jnp.square((y - prediction) / self.sigma) / 2 + jnp.log(self.sigma * np.sqrt(2 * np.pi)))


@operator
class LaplaceNoise(_Positive):
    """y = H(x) + scale l, l of density exp(-|l|) / 2; scale > 0 on the [-1, 1] scale. The s.d. is sqrt(2) scale."""

    scale: Any

    @property
    def variance(self):
        """2 scale^2."""
        return 2 * self.scale**2

    def draw(self, clean: Array, key: PRNGKey) -> Array:
        """The clean measurement plus independent Laplace noise."""
        return clean + self.scale * jax.random.laplace(key, clean.shape, clean.dtype)

    def negative_log_likelihood(self, prediction: Array, y: Array) -> Scalar:
        """||y - prediction||_1 / scale + m log(2 scale)."""
        return jnp.sum(jnp.abs(y - prediction) / self.scale + jnp.log(2 * self.scale))


@operator
class PoissonNoise(_Positive):
    """Photon counts k with mean peak (H(x) + 1) / 2 per pixel, as y = 2 k / peak - 1.

    `peak` > 0 is the mean count at white; the standard deviation of y at mid-grey is sqrt(2 / peak). Dark pixels have
    up to ten times the weight, so that gradient descent needs smaller steps than with Gaussian noise: for `pnp`, a gain
    of 0.05.
    """

    peak: Any

    @property
    def variance(self):
        """2 / peak, the variance of y at mid-grey."""
        return 2 / self.peak

    def draw(self, clean: Array, key: PRNGKey) -> Array:
        """Counts on the [-1, 1] scale (white is `peak`); they are zero where the clean measurement is below black."""
        counts = jax.random.poisson(key, jnp.maximum(self._counts(clean), 0))
        return 2 * counts.astype(clean.dtype) / self.peak - 1

    def negative_log_likelihood(self, prediction: Array, y: Array) -> Scalar:
        """The sum of rate - k log rate + log k!, which is convex with finite curvature everywhere.

        It is exact if the predicted rate is at least `floor`, the larger of one count and the share `DARK` of the peak.
        For lower rates, and for negative ones, which a prediction can have, it continues as a parabola with slope
        (rate - k) / floor. Value, slope and minimiser k stay the same, so that dark pixels neither stall nor diverge at
        any peak.
        """
        rate, k = self._counts(prediction), self._counts(y)
        floor = jnp.maximum(1.0, DARK * self.peak)
        bright, dark = jnp.maximum(rate, floor), jnp.minimum(rate - floor, 0)
        parabola = dark * (floor - k) / floor + dark**2 / (2 * floor)
        factorial = gammaln(jnp.maximum(k, 0) + 1)  # constant in x; gammaln has poles at negative counts
        return jnp.sum(bright - k * jnp.log(bright) + parabola + factorial)

    def _counts(self, y: Array) -> Array:
        return self.peak * (y + 1) / 2


DARK = 0.05
"""The share of the peak below which a parabola continues the Poisson likelihood."""


@operator
class Observation:
    """One measurement: y, its operator, and its noise model.

    It is a pytree. A batch of observations, for `jax.vmap`, has a leading axis on all arrays. Solvers take y in any
    type of real numbers and work in that of the field (`flow.dtypes.field_dtype`).
    """

    y: Any
    operator: Any
    noise: Any

    def __post_init__(self):
        if isinstance(self.y, list | tuple):
            object.__setattr__(self, "y", as_float(self.y))

    def negative_log_likelihood(self, x: Image) -> Scalar:
        """-log p(y | x) for an image x, with the differentiable surrogate of the operator."""
        return self.noise.negative_log_likelihood(self.operator.surrogate(x), self.y)

    def energy(self, x: Image) -> Scalar:
        """2 variance nll up to a constant: ||y - H(x)||^2 for Gaussian noise, which published solvers minimise.

        Where the variance differs between the entries of y, it is the smallest: ||w (y - H(x))||^2 with the weights w
        of `whiten`.
        """
        return 2 * self.least_variance * self.negative_log_likelihood(x)

    @property
    def least_variance(self) -> Any:
        """The variance of the most precise entry of y."""
        variance = self.noise.variance
        return jnp.min(variance) if np.ndim(variance) else variance

    def whiten(self, r: Array) -> Array:
        """r, of the shape of y, times w: the smallest standard deviation of the noise, divided by that of the entry."""
        if not jax.eval_shape(lambda: self.noise.variance).ndim:
            return r
        return r * jnp.sqrt(jnp.min(self.noise.variance) / self.noise.variance)

    def residual(self, x: Image) -> Scalar:
        """The root mean square of y - H(x), with the operator itself, on the [-1, 1] scale; comparable to sigma."""
        return jnp.sqrt(jnp.mean(jnp.square(self.y - self.operator(x))))

    def check_shape(self) -> None:
        """Raises InputError if y does not have the shape of the operator's output, or the noise does not fit it."""
        require_measurement(self.operator, self.y)
        _require_broadcast(self.noise, np.shape(self.y))

    def in_type(self, dtype: Any) -> "Observation":
        """The observation as solvers take it: of one floating-point type, and with noise of at least `SMALLEST_SIGMA`.

        Raises:
          InputError: y is not an array of real numbers.
        """
        noise = self.noise
        if isinstance(noise, GaussianNoise) and not isinstance(noise.sigma, jax.core.Tracer):
            sigma = np.asarray(noise.sigma, float)
            if np.any(sigma < SMALLEST_SIGMA):
                noise = GaussianNoise(sigma=np.maximum(sigma, SMALLEST_SIGMA))
        operator, noise = in_type((self.operator, noise), dtype)
        return Observation(y=as_float(self.y, dtype), operator=operator, noise=noise)


def observe(operator: Operator, noise: Noise, x: ArrayLike | Sequence, key: Any) -> Observation:
    """The image x [H, W, C] measured by the operator, with noise drawn from the key.

    Raises:
      InputError: x does not have the operator's shape, or the noise level does not broadcast to the measurement.
    """
    require_key("noise is drawn at random", key)
    clean = operator(x)
    _require_broadcast(noise, clean.shape)
    return Observation(y=noise.draw(clean, key), operator=operator, noise=noise)


def _require_broadcast(noise: Any, shape: tuple[int, ...]) -> None:
    """Raises InputError where a noise level of several numbers does not fit a measurement of this shape."""
    with translating(lambda why: f"{type(noise).__name__} has no variance ({why}): pass numbers", TypeError):
        found = np.shape(noise.variance)
    try:
        fits = np.broadcast_shapes(found, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        remedy = f"pass one number, or an array that broadcasts to {shape}; vmap over a batch"
        raise InputError(f"{type(noise).__name__} of shape {found} for a measurement of shape {shape}: {remedy}")
