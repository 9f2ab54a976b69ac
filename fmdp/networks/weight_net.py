"""The learned log-variance of the released checkpoints."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from fmdp.types import Time


class WeightNet(nn.Module):
    """The log-variance w(s, t) of the training loss, with the shape of s and t.

    A magnitude-preserving network without biases (Karras et al. 2024, arXiv 2312.02696), whose input are the two times
    as a picture of one pixel and two channels. It is zero at s = t = 0 for all weights.
    """

    width: int = 128

    @nn.compact
    def __call__(self, s: Time, t: Time) -> Array:
        pair = jnp.stack(jnp.broadcast_arrays(jnp.asarray(s), jnp.asarray(t)), axis=-1)
        h = pair.reshape(-1, 1, 1, 2)
        h = nn.silu(self._conv("conv1", h))
        h = nn.silu(self._conv("conv2", h, 2**0.5))
        h = jnp.broadcast_to(h, (len(h), 4, 4, self.width))
        h = nn.silu(self._conv("conv3", h, 2**0.5)).mean((1, 2))
        return (h @ self._weight("linear", (self.width, 1))).reshape(pair.shape[:-1])

    def _conv(self, name: str, x: Array, gain: float = 1.0) -> Array:
        kernel = gain * self._weight(name, (3, 3, x.shape[-1], self.width))
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def _weight(self, name: str, shape: tuple[int, ...]) -> Array:
        """A parameter whose weights are normalised for every output."""
        weight = self.param(name, nn.initializers.normal(1.0), shape)
        inputs = tuple(range(len(shape) - 1))
        scale = 1e-4 + jnp.sqrt(jnp.mean(weight**2, inputs, keepdims=True))
        return weight / (scale * (weight.size / shape[-1]) ** 0.5)
