"""Distortion: how far restored images are from the clean ones, as one number per image."""

import dm_pix
import jax.numpy as jnp
from jax import Array

from fmdp.types import BroadcastImages


def mse(x: BroadcastImages, reference: BroadcastImages) -> Array:
    """Mean squared error per pixel on the [-1, 1] scale, [...] for images [..., H, W, C]."""
    return jnp.mean(jnp.square(x - reference), axis=(-3, -2, -1))


def psnr(x: BroadcastImages, reference: BroadcastImages) -> Array:
    """Peak signal-to-noise ratio in dB, [...] for images [..., H, W, C] in [-1, 1] (peak to peak 2); 126 at most."""
    return 10 * jnp.log10(4 / jnp.maximum(mse(x, reference), 1e-12))  # finite for equal images


def ssim(x: BroadcastImages, reference: BroadcastImages) -> Array:
    """Structural similarity, at most 1, [...] for images [..., H, W, C] in [-1, 1], clipped to that range.

    The window is the usual Gaussian of 11 pixels and width 1.5, or the largest odd one that fits a smaller image.
    """
    size = min(11, *(side - 1 + side % 2 for side in x.shape[-3:-1]))
    x, reference = jnp.broadcast_arrays(x, reference)
    unit = [(jnp.clip(image, -1, 1).reshape(-1, *x.shape[-3:]) + 1) / 2 for image in (x, reference)]
    return dm_pix.ssim(*unit, filter_size=size).reshape(x.shape[:-3])
