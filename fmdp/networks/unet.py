"""The two-time U-Net of the DDPM++ family, which can load the weights of the released checkpoints.

`fmdp.pretrained.pytorch_unet` converts them. The arithmetic follows Song et al. 2021 (DDPM++, arXiv 2011.13456) in the
form of Karras et al. 2022 (arXiv 2206.00364), with the second time of a flow map in the embedding.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.errors import InputError
from fmdp.networks.norms import GROUP, NONE, Norm
from fmdp.networks.resampling import double, halve, resampler
from fmdp.parallel.precision import product_type
from fmdp.types import PRNGKey, Time

_zeros = nn.initializers.zeros


@partial(jax.jit, static_argnums=1)
def _uniform(key: PRNGKey, count: int) -> Array:
    return jax.random.uniform(key, (count,), minval=-1)


def _kernel(key: PRNGKey, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The numbers of `nn.initializers.xavier_uniform`, cut from a power of two, so that few programs are compiled."""
    count, fan = math.prod(shape), math.prod(shape[:-2]) * sum(shape[-2:])
    drawn: Any = _uniform(key, 1 << (count - 1).bit_length())
    drawn = drawn if isinstance(drawn, jax.core.Tracer) else np.asarray(drawn)  # numpy cuts without a program
    return jnp.asarray(drawn[:count].reshape(shape) * np.sqrt(3 * np.float32(2 / fan)), dtype)


def _positions(time: Array, channels: int) -> Array:
    """[cos(f time), sin(f time)] for frequencies f from 1 down to 1e-4, as [..., channels]."""
    exponents = jnp.arange(channels // 2) / (channels // 2 - 1)
    angles = time[..., None] * (1e-4**exponents).astype(time.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _quarter_log(time: Array) -> Array:
    """log(time + 1e-8) / 4, the embedding's argument in EDM (arXiv 2206.00364); times below 0 count as 0."""
    return jnp.log(jnp.maximum(time, 0) + 1e-8) / 4


class Block(nn.Module):
    """A residual block, resampled by `resample`, optionally followed by attention over all its pixels."""

    channels: int
    attention: bool = False
    resample: Callable[[Array], Array] | None = None
    adaptive: bool = False
    dropout: float = 0.0
    dtype: str | None = None
    additive: bool = False
    norm: str = GROUP

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        resample = self.resample or (lambda x: x)
        dtype = self.dtype or x.dtype
        norm = partial(Norm, dtype, self.norm)
        last = _kernel if self.norm == NONE else _zeros  # without norms, both parts of the sum begin equally large

        def dense(features, name, init=_kernel):
            return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)

        def conv(name, init=_kernel):
            return nn.Conv(self.channels, (3, 3), dtype=dtype, kernel_init=init, name=name)

        h = norm(name="norm0")(x)
        h = conv("conv0")(resample(h))
        modulation = nn.Dense((1 + self.adaptive) * self.channels, kernel_init=_kernel, name="affine")(embedding)
        if self.additive:
            h = norm(name="norm1")(h + modulation[:, None, None])
        else:
            h = norm(name="norm1")(h, *jnp.split(modulation, 1 + self.adaptive, axis=-1))
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
        h = conv("conv1", last)(h)
        if self.resample or x.shape[-1] != self.channels:
            x = dense(self.channels, "skip")(resample(x))
        x = (x + h) * math.sqrt(0.5)
        if not self.attention:
            return x

        pixels = norm(activate=False, name="norm2")(x).reshape(len(x), -1, 1, self.channels)
        q, k, v = jnp.split(dense(3 * self.channels, "qkv")(pixels), 3, axis=-1)
        # The fused kernels have no jvp, which the Lagrangian and Eulerian losses need. Softmax is in float32.
        h = jax.nn.dot_product_attention(q, k, v, implementation="xla")
        return (x + dense(self.channels, "proj", _zeros)(h).reshape(x.shape)) * math.sqrt(0.5)


@partial(jax.jit, static_argnums=(0, 1))
def _apply(block: Block, remat: bool, params: Any, x: Array, embedding: Array, rngs: dict[str, Array]) -> Array:
    """A block at given parameters. Equal blocks are traced and lowered once, and their programs stay small."""
    apply: Callable[..., Any] = jax.checkpoint(block.apply) if remat else block.apply
    return apply({"params": params}, x, embedding, rngs=rngs)


class UNet(nn.Module):
    """The average field v(x, s, t) of images [..., H, W, C] as a U-Net.

    v has the shape and type of x and is zero at initialisation. H and W must be multiples of 2^(levels - 1). The
    network is convolutional except for attention, which covers all pixels of a level.

    Attributes:
      channels: of the finest level; the embedding of the times has four times as many.
      multipliers: of `channels` at each level, finest first; each level has half as many pixels a side.
      blocks: residual blocks per level on the way down; there is one more on the way up.
      attention: the levels with attention, as pixels a side for a picture of `resolution`.
      resolution: pixels a side in training; it only defines which levels `attention` names.
      resampling: filter along each axis between levels, up to a factor; symmetric filters have even length.
      time_scale: factor of the times before their embedding; with a large one the field varies faster in time.
      adaptive: whether the times also shift the features, instead of only scaling them.
      dropout: rate of dropout, which takes place only if a `dropout` rng is passed.
      dtype: of convolutions and matrix products ("bfloat16"); None means that of the input, "auto" bfloat16 on a GPU or
        TPU. Norms, softmax, the embedding and the last convolution are always in float32.
      middle_attention: whether there is attention in the middle of the network, as in the released weights. Without it
        and with attention=(), the network is fully convolutional.
      remat: whether to recompute the blocks in the backward pass instead of storing their activations.
      meanflow: whether the times enter as the released MeanFlow weights need it: the embedding takes log(1 - s) / 4 and
        log(t - s) / 4 instead of s and t - s, and is added to the features before a norm instead of scaling them after.
      norm: one of `norms.NORMS`. "group" takes moments over space and groups of channels, as in the released weights.
        "pixel" takes them over the channels of each pixel, and "none" takes none: a fully convolutional network then
        gives the same inside a picture of any size. With "none" the residual branches do not begin at zero, so that the
        features keep about their size at first, as in EDM2 (arXiv 2312.02696), which normalises its kernels, too.

    Raises:
      InputError: H or W is not such a multiple, or resampling is not a filter.
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 3, 4)
    blocks: int = 3
    attention: Sequence[int] = (16, 8)
    resolution: int = 256
    resampling: Sequence[float] = (1.0, 3.0, 3.0, 1.0)
    time_scale: float = 1.0
    adaptive: bool = False
    dropout: float = 0.0
    dtype: str | None = None
    remat: bool = False
    middle_attention: bool = True
    meanflow: bool = False
    norm: str = GROUP

    @property
    def stride(self) -> int | None:
        """Pixels a side of one of the coarsest level, where the network is fully convolutional; None with attention."""
        levels = len(self.multipliers)
        attends = self.middle_attention or any(self.resolution >> level in self.attention for level in range(levels))
        return None if attends else 2 ** (levels - 1)

    @property
    def floats_per_pixel(self) -> int:
        """About how many numbers one evaluation holds at once for each pixel, without those of attention.

        They are the outputs that wait for the way up and, in the last block that takes one, its input and its output
        twice. For the prior `photos`, XLA's own count (`memory_analysis`, on a CPU) is four fifths of that.
        """
        below = [self.multipliers[0], *self.multipliers[:-1]]
        waiting = sum(
            (self.blocks * here + before) / 4**level
            for level, (here, before) in enumerate(zip(self.multipliers, below, strict=True))
        )
        finest, below_it = self.multipliers[0], self.multipliers[:2][-1]
        return math.ceil(self.channels * (waiting + 4 * finest + 2 * below_it))

    @nn.compact
    def __call__(self, x: Array, s: Time, t: Time) -> Array:
        *batch, height, width, colours = x.shape
        coarsest = len(self.multipliers) - 1
        if height % 2**coarsest or width % 2**coarsest:
            raise InputError(f"an image of {height}x{width} pixels: both must be divisible by {2**coarsest}; pad it")
        if len(self.resampling) < 2 or not 0 < abs(sum(self.resampling)) < math.inf:
            raise InputError(f"resampling = {self.resampling}: a filter has two taps or more, with a sum that is not 0")
        dtype, precise = product_type(self.dtype), jnp.promote_types(x.dtype, jnp.float32)
        s, t = (jnp.broadcast_to(jnp.asarray(time, precise), batch).reshape(-1) for time in (s, t))
        h = x.reshape(-1, height, width, colours)
        down, up = (resampler(step, tuple(self.resampling)) for step in (halve, double))

        embedded = (_quarter_log(t - s), _quarter_log(1 - s)) if self.meanflow else (t - s, s)
        later, first = (_positions(self.time_scale * time, 2 * self.channels) for time in embedded)
        times = later + first
        for i in range(2):
            times = nn.silu(nn.Dense(4 * self.channels, kernel_init=_kernel, name=f"map_layer{i}")(times))

        additive = self.meanflow and not self.adaptive

        def block(h, name, channels, attention=False, resample=None):
            options = channels, attention, resample, self.adaptive, self.dropout, dtype, additive, self.norm
            if self.is_initializing():
                return Block(*options, name=name)(h, times)
            rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
            return _apply(Block(*options, parent=None), self.remat, self.variables["params"][name], h, times, rngs)

        def attends(level):
            return self.resolution >> level in self.attention

        h = nn.Conv(self.channels, (3, 3), dtype=dtype, kernel_init=_kernel, name="enc_0_conv")(h)
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            if level > 0:
                h = block(h, f"enc_{level}_down", h.shape[-1], resample=down)
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, f"enc_{level}_block{i}", multiplier * self.channels, attends(level))
                skips.append(h)

        h = block(h, f"dec_{coarsest}_in0", h.shape[-1], attention=self.middle_attention)
        h = block(h, f"dec_{coarsest}_in1", h.shape[-1])
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            if level < coarsest:
                h = block(h, f"dec_{level}_up", h.shape[-1], resample=up)
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                last = i == self.blocks
                h = block(h, f"dec_{level}_block{i}", multiplier * self.channels, attends(level) and last)

        h = Norm(precise, self.norm, name="dec_0_aux_norm")(h)
        v = nn.Conv(colours, (3, 3), kernel_init=_zeros, name="dec_0_aux_conv")(h)
        return v.astype(x.dtype).reshape(x.shape)
