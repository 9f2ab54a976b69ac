"""A residual multilayer perceptron for small images."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fmdp.networks.embedding import fourier_features
from fmdp.types import Time


class Block(nn.Module):
    """x + gate(time) * dense(silu(dense(scale(time) * norm(x) + shift(time)))), the identity at initialisation."""

    width: int
    expansion: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        scale, shift, gate = jnp.split(
            nn.Dense(3 * self.width, kernel_init=nn.initializers.zeros)(condition), 3, axis=-1
        )
        h = nn.LayerNorm(use_bias=False, use_scale=False)(x) * (1 + scale) + shift
        h = nn.silu(nn.Dense(self.expansion * self.width)(h))
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
        return x + gate * nn.Dense(self.width)(h)


class MLP(nn.Module):
    """The average field v(x, s, t) of images [..., H, W, C] as a residual MLP over all their pixels.

    The times determine an affine map of the normalised input of every block, and a gate (adaLN), from
    `fourier_features` of s and of t - s. v has the shape of x and is zero at initialisation. With `output_gain`, they
    also scale the unnormalised stream before the output layer: the field of a Gaussian, which is linear in x with gains
    that vary in time, can then be represented without any block. `dropout` is the rate in the hidden layers of the
    blocks. It takes place only if a `dropout` rng is passed.
    """

    width: int = 256
    blocks: int = 3
    expansion: int = 2
    frequencies: int = 8
    output_gain: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time) -> Array:
        batch, pixels = x.shape[:-3], math.prod(x.shape[-3:])
        s, t = (jnp.broadcast_to(jnp.asarray(time, x.dtype), batch) for time in (s, t))
        times = jnp.concatenate([fourier_features(time, self.frequencies) for time in (s, t - s)], axis=-1)
        condition = nn.silu(nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(times))))
        h = nn.Dense(self.width)(x.reshape(*batch, pixels))
        for _ in range(self.blocks):
            h = Block(self.width, self.expansion, self.dropout)(h, condition)
        if self.output_gain:
            h = h * (1 + nn.Dense(self.width, kernel_init=nn.initializers.zeros)(condition))
        return nn.Dense(pixels, kernel_init=nn.initializers.zeros)(h).reshape(x.shape)
