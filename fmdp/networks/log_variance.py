"""The learned log-variance of the training loss at every pair of times."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fmdp.networks.embedding import fourier_features
from fmdp.types import Time


class LogVariance(nn.Module):
    """The log-variance w(s, t) of the loss, with the shape of s and t; zero at initialisation."""

    width: int = 64
    frequencies: int = 4

    @nn.compact
    def __call__(self, s: Time, t: Time) -> Array:
        times = jnp.concatenate([fourier_features(jnp.asarray(time), self.frequencies) for time in (s, t)], axis=-1)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(nn.silu(nn.Dense(self.width)(times)))[..., 0]
