"""A fixed feature space for comparing sets of images without learned weights."""

import math

import jax
from jax import Array

from fmdp.types import Images

SIDE = 8


def features(images: Images) -> Array:
    """Images [..., H, W, C] as vectors [..., d]: their pixels, after antialiased reduction to at most 8 x 8."""
    *batch, height, width, channels = images.shape
    shape = (*batch, min(height, SIDE), min(width, SIDE), channels)
    reduced = images if shape == images.shape else jax.image.resize(images, shape, "linear", antialias=True)
    return reduced.reshape(*batch, math.prod(shape[-3:]))
