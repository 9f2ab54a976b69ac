"""JPEG compression, and a differentiable stand-in for it."""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax import Array

from fmdp.errors import InputError, Range
from fmdp.operators.base import Operator, operator, static
from fmdp.operators.color import REC_601

# ITU-T T.81, annex K: the standard tables for luma and chroma.
LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA_TABLE = np.full((8, 8), 99)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

DCT = scipy.fft.dct(np.eye(8), axis=0, norm="ortho")

# Rec. 601 as in JFIF, without its offset of 128: pixels are centred at zero here.
YCBCR = np.array([REC_601, [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@operator
class Jpeg(Operator):
    """Decompressed JPEG: YCbCr, chroma at every second pixel, 8x8 cosine transform, tables scaled by the quality.

    Gray images have luma only. Sides that are not a multiple of the block's are padded with the last pixel.
    `surrogate` replaces the rounding r = round(c) by r + (c - r)^3, which has a derivative (Reich et al., WACV 2024).
    """

    tables: Any
    image_shape: Any = static()
    name: Any = static(default="jpeg")
    linear = False

    def measure(self, x):
        """Of the shape of x, not clipped to [-1, 1]."""
        return self._compress(x, jnp.round)

    def surrogate(self, x):
        """Of the shape of x."""
        return self._compress(x, _smooth_round)

    def _compress(self, x: Array, rounding: Callable[[Array], Array]) -> Array:
        height, width, channels = x.shape
        block = 16 if channels == 3 else 8
        x = jnp.pad(127.5 * (x + 1) - 128, ((0, -height % block), (0, -width % block), (0, 0)), "edge")
        x = self._colour(x, rounding) if channels == 3 else _quantize(x[..., 0], self.tables[0], rounding)[..., None]
        return (x[:height, :width] + 128) / 127.5 - 1

    def _colour(self, x: Array, rounding: Callable[[Array], Array]) -> Array:
        luma, *chroma = jnp.moveaxis(_mix(x, YCBCR), -1, 0)
        luma = _quantize(luma, self.tables[0], rounding)
        chroma = [_quantize(plane[::2, ::2], self.tables[1], rounding) for plane in chroma]
        chroma = [plane.repeat(2, 0).repeat(2, 1) for plane in chroma]
        return _mix(jnp.stack([luma, *chroma], -1), np.linalg.inv(YCBCR))


def jpeg(image_shape, key, quality: Annotated[int, Range(1, 100)] = 10) -> Operator:
    """JPEG at a quality from 1 (worst) to 100 for images in colour or gray."""
    if image_shape[-1] not in (1, 3):
        raise InputError(f"jpeg: needs 3 channels (red, green, blue) or 1 (gray), the images have {image_shape[-1]}")
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = np.clip(np.floor((scale * np.stack([LUMA_TABLE, CHROMA_TABLE]) + 50) / 100), 1, 255)
    return Jpeg(tables=jnp.asarray(tables, float), image_shape=image_shape)


def _mix(x: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum("hwc,dc->hwd", x, matrix.astype(x.dtype), precision="highest")


def _quantize(plane: Array, table: Array, rounding: Callable[[Array], Array]) -> Array:
    """The plane [h, w] with the cosine coefficients of its 8x8 blocks rounded to multiples of the table."""
    height, width = plane.shape
    dct = DCT.astype(plane.dtype)
    blocks = plane.reshape(height // 8, 8, width // 8, 8)
    levels = rounding(jnp.einsum("ui,aibj,vj->abuv", dct, blocks, dct, precision="highest") / table)
    return jnp.einsum("ui,abuv,vj->aibj", dct, levels * table, dct, precision="highest").reshape(height, width)


def _smooth_round(c: Array) -> Array:
    nearest = jnp.round(c)
    return nearest + (c - nearest) ** 3
