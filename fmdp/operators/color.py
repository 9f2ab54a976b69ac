"""Colorization, where only the luma is measured."""

from typing import Any

import jax.numpy as jnp

from fmdp.errors import InputError
from fmdp.operators.base import Operator, operator, static

LUMA = (0.298958, 0.587019, 0.114048)  # fits the reference arrays; Rec. 601 has 0.299, 0.587, 0.114


@operator
class Colorization(Operator):
    """The luma, a weighted sum of red, green and blue."""

    image_shape: Any = static()
    name: Any = static(default="colorization")

    def measure(self, x):
        """[H, W, 1]."""
        return jnp.sum(x * jnp.asarray(LUMA, x.dtype), -1, keepdims=True)


def colorization(image_shape, key) -> Operator:
    """The luma, one channel, of images with three."""
    if image_shape[-1] != 3:
        raise InputError(f"colorization: needs 3 channels (red, green, blue), the images have {image_shape[-1]}")
    return Colorization(image_shape=image_shape)
