"""Distortion: how far restored images are from the clean ones, as one number per image."""

import dm_pix
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.types import BroadcastImages

SMALLEST_MSE = 1e-12  # of which a PSNR is given, so that it is finite for equal images


def mse(x: BroadcastImages, reference: BroadcastImages) -> Array:
    """Mean squared error per pixel on the [-1, 1] scale, [...] for images [..., H, W, C]."""
    return jnp.mean(jnp.square(x - reference), axis=(-3, -2, -1))


def psnr(x: BroadcastImages, reference: BroadcastImages) -> Array:
    """Peak signal-to-noise ratio in dB, [...] for images [..., H, W, C] in [-1, 1] (peak to peak 2); 126 at most."""
    return 10 * jnp.log10(4 / jnp.maximum(mse(x, reference), SMALLEST_MSE))


def clipped_psnr(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`psnr` [...] of images [..., H, W, C] clipped to [-1, 1], not rounded, on the host in double precision."""
    error = np.square(np.clip(x, -1, 1).astype(np.float64) - reference).mean((-3, -2, -1))
    return np.asarray(10 * np.log10(4 / np.maximum(error, SMALLEST_MSE)))


def ssim(x: BroadcastImages, reference: BroadcastImages) -> Array:
    """Structural similarity, at most 1, [...] for images [..., H, W, C] in [-1, 1], clipped to that range.

    The window is the usual Gaussian of 11 pixels and width 1.5, or the largest odd one that fits a smaller image.
    """
    size = min(11, *(side - 1 + side % 2 for side in x.shape[-3:-1]))
    x, reference = jnp.broadcast_arrays(x, reference)
    unit = [(jnp.clip(image, -1, 1).reshape(-1, *x.shape[-3:]) + 1) / 2 for image in (x, reference)]
    return dm_pix.ssim(*unit, filter_size=size).reshape(x.shape[:-3])
