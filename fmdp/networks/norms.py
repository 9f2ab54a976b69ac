"""The norms of a U-Net: over space and groups of channels, over the channels of each pixel, or none.

Group norm takes its moments over all that the network is given. Each output then depends on every pixel and on the size
of the picture. The other two kinds know one pixel at a time, so a network of them and of convolutions gives the same
inside a picture as inside a crop of it.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

GROUP, PIXEL, NONE = "group", "pixel", "none"
NORMS = (GROUP, PIXEL, NONE)
SILU_SIZE = 0.596  # the root mean square of silu(z) for standard normal z


def _mean(x: Array, groups: int | None) -> Array:
    """The mean of [n, H, W, C] over space and each group of channels, as [n, 1, 1, C].

    Without groups it is that over the channels of each pixel, [n, H, W, 1]. XLA is fast at a reduction over the two
    spatial axes, so the mean over a group is taken of that.
    """
    if groups is None:
        return x.mean(-1, keepdims=True)
    *_, height, width, channels = x.shape
    size = channels // groups
    total = x.sum((1, 2)).reshape(-1, groups, size).sum(-1)
    return jnp.repeat(total / (height * width * size), size, axis=-1)[:, None, None]


# The moments are differentiated by rules of our own: two means, and little besides. They hold for any mean that is a
# projection. Automatic differentiation gives several times as many operations, above all to derivatives of derivatives.


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalize(x: Array, groups: int | None) -> tuple[Array, Array]:
    """(x - mean) * rate for x [n, H, W, C], and the rate 1 / deviation, which has the shape of the mean."""
    mean = _mean(x, groups)
    rate = lax.rsqrt(jnp.maximum(_mean(x * x, groups) - mean**2, 0.0) + 1e-6)
    return x * rate - mean * rate, rate


@_normalize.defjvp
def _normalize_jvp(groups, primals, tangents):
    (x,), (dx,) = primals, tangents
    y, rate = _normalize(x, groups)
    turn = rate * _mean(y * dx, groups)
    return (y, rate), (rate * dx - turn * y - rate * _mean(dx, groups), -rate * turn)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _affine_norm(x: Array, gain: Array, offset: Array, groups: int | None) -> Array:
    """The affine function gain y + offset of the normalised x [n, H, W, C]; gain and offset are [n, 1, 1, C]."""
    return gain * _normalize(x, groups)[0] + offset


@_affine_norm.defjvp
def _affine_norm_jvp(groups, primals, tangents):
    (x, gain, offset), (dx, dgain, doffset) = primals, tangents
    y, rate = _normalize(x, groups)
    slope = gain * rate
    dz = slope * dx + (dgain - slope * _mean(y * dx, groups)) * y + (doffset - slope * _mean(dx, groups))
    return gain * y + offset, dz


@partial(jax.jit, static_argnames=("kind", "activate", "dtype"))
def _norm(x, weight, bias, scale, shift, kind, activate, dtype):
    channels = x.shape[-1]
    groups = math.gcd(channels, min(32, max(channels // 4, 1))) if kind == GROUP else None
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    gain, offset, _ = jnp.broadcast_arrays(weight * (1 + scale), bias * (1 + scale) + shift, x[:, 0, 0])
    gain, offset = gain[:, None, None], offset[:, None, None]
    z = gain * x + offset if kind == NONE else _affine_norm(x, gain, offset, groups)
    if activate:
        z = nn.silu(z) / SILU_SIZE if kind == NONE else nn.silu(z)
    return z.astype(dtype)


class Norm(nn.Module):
    """silu(z) for z = x normalised, times (1 + scale), plus shift, in float32.

    Attributes:
      dtype: of the result.
      kind: one of `NORMS`. "group" subtracts the mean over space and each group of channels, and divides by the
        deviation. "pixel" does so over the channels of each pixel. "none" leaves x as it is, and divides silu(z) by
        `SILU_SIZE`, so that features of size 1 keep it (the magnitude-preserving silu of EDM2, arXiv 2312.02696).
      activate: whether to apply silu; z is returned otherwise.
    """

    dtype: Any
    kind: str = GROUP
    activate: bool = True

    @nn.compact
    def __call__(self, x: Array, scale: Array | float = 0.0, shift: Array | float = 0.0) -> Array:
        weight = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return _norm(x, weight, bias, scale, shift, self.kind, self.activate, self.dtype)
