"""The luma of colour images, and colorization, which measures nothing else."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fmdp.errors import InputError
from fmdp.operators.base import Operator, operator, static

REC_601 = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luma of ITU-R BT.601, as JPEG and Pillow's mode "L" use it."""

REFERENCE_LUMA = (0.298958, 0.587019, 0.114048)
"""Weights of the published colorization operator: they match its reference arrays to 1e-6, `REC_601` only to 7e-5."""


def luma(image: np.ndarray) -> np.ndarray:
    """The Rec. 601 luma [..., H, W, 1] of images [..., H, W, 3], on the scale of the images."""
    return image @ REC_601.astype(image.dtype)[:, None]


@operator
class Colorization(Operator):
    """The luma, a sum of red, green and blue weighted by `REFERENCE_LUMA`."""

    image_shape: Any = static()
    name: Any = static(default="colorization")

    def measure(self, x):
        """[H, W, 1]."""
        return jnp.sum(x * jnp.asarray(REFERENCE_LUMA, x.dtype), -1, keepdims=True)


def colorization(image_shape, key) -> Operator:
    """The luma, one channel, of images with three."""
    if image_shape[-1] != 3:
        raise InputError(f"colorization: needs 3 channels (red, green, blue), the images have {image_shape[-1]}")
    return Colorization(image_shape=image_shape)
