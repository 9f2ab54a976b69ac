"""Phase retrieval and high dynamic range."""

from typing import Annotated, Any

import jax.numpy as jnp

from fmdp.errors import Range
from fmdp.operators.base import Operator, operator, static

Oversampling = Annotated[float, Range(0, 64)]  # up to a transform of 17 times the sides


@operator
class PhaseRetrieval(Operator):
    """The modulus of the centred orthonormal Fourier transform of every channel, zero-padded by (rows, columns)."""

    padding: Any = static()
    image_shape: Any = static()
    name: Any = static(default="phase_retrieval")
    linear = False

    def measure(self, x):
        """[H + 2 rows, W + 2 columns, C], nonnegative."""
        padded = jnp.pad(x, [(side, side) for side in self.padding] + [(0, 0)])
        # The position of the image does not change the modulus, so only the result has to be centred.
        return jnp.fft.fftshift(jnp.abs(jnp.fft.fft2(padded, axes=(0, 1), norm="ortho")), (0, 1))


@operator
class HighDynamicRange(Operator):
    """clip(scale x, -1, 1)."""

    scale: Any
    image_shape: Any = static()
    name: Any = static(default="hdr")
    linear = False

    def measure(self, x):
        """Of the shape of x, in [-1, 1]."""
        return jnp.clip(self.scale * x, -1, 1)


def phase_retrieval(image_shape, key, oversampling: Oversampling = 2.0) -> Operator:
    """Fourier modulus, the sides padded by oversampling / 8 of their length on both ends (DPS, arXiv 2209.14687)."""
    padding = tuple(int(oversampling / 8 * side) for side in image_shape[:2])
    return PhaseRetrieval(padding=padding, image_shape=image_shape)


def hdr(image_shape, key, scale: Annotated[float, Range(0, excluded=0)] = 2.0) -> Operator:
    """Overexposure: contrast times `scale`, then clipped to [-1, 1]."""
    return HighDynamicRange(scale=jnp.asarray(scale, float), image_shape=image_shape)
