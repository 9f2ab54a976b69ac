"""Noise models, and the observation y = H(x) with noise that every solver receives.

A noise model draws y and computes its negative log-likelihood, from the same distribution. Images, measurements and
noise levels are on the [-1, 1] scale.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

from fmdp.errors import InputError, Range, require_in_range
from fmdp.operators.base import Operator, operator
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
    """A dataclass of positive numbers, each on the [-1, 1] scale of images or a count."""

    def __post_init__(self):
        require_in_range(type(self).__name__, dict.fromkeys(vars(self), Range(0, excluded=0)), vars(self))


@operator
class GaussianNoise(_Positive):
    """y = H(x) + sigma n; sigma > 0 on the [-1, 1] scale (0.05 is 6.4 of 255)."""

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
        return jnp.sum(bright - k * jnp.log(bright) + parabola + gammaln(k + 1))

    def _counts(self, y: Array) -> Array:
        return self.peak * (y + 1) / 2


DARK = 0.05
"""The share of the peak below which a parabola continues the Poisson likelihood."""


@operator
class Observation:
    """One measurement: y, its operator, and its noise model.

    It is a pytree. A batch of observations, for `jax.vmap`, has a leading axis on all arrays.
    """

    y: Any
    operator: Any
    noise: Any

    def negative_log_likelihood(self, x: Image) -> Scalar:
        """-log p(y | x) for an image x, with the differentiable surrogate of the operator."""
        return self.noise.negative_log_likelihood(self.operator.surrogate(x), self.y)

    def energy(self, x: Image) -> Scalar:
        """2 variance nll up to a constant: ||y - H(x)||^2 for Gaussian noise, which published solvers minimise."""
        return 2 * self.noise.variance * self.negative_log_likelihood(x)

    def residual(self, x: Image) -> Scalar:
        """The root mean square of y - H(x), with the operator itself, on the [-1, 1] scale; comparable to sigma."""
        return jnp.sqrt(jnp.mean(jnp.square(self.y - self.operator(x))))

    def check_shape(self) -> None:
        """Raises InputError if y does not have the shape of the operator's output."""
        H = self.operator
        if self.y.shape != H.output_shape:
            measured = f"{H.name} of an image {H.image_shape} measures {H.output_shape}"
            raise InputError(f"y has shape {self.y.shape} but {measured}: pass one measurement, and vmap over a batch")


def observe(operator: Operator, noise: Noise, x: Image, key: PRNGKey) -> Observation:
    """The image x measured by the operator, with noise drawn from the key."""
    return Observation(y=noise.draw(operator(x), key), operator=operator, noise=noise)
