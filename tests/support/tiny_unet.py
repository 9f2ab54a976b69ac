"""An untrained, fully convolutional U-Net with random weights, for tests of restoration in tiles."""

import jax
import jax.numpy as jnp

from fmdp.flow.tiling import Tiling
from fmdp.networks.unet import UNet
from fmdp.pretrained.prior import Prior, PriorMetadata

TILE, MARGIN = 16, 4


def tiny_unet(tiling=None, channels=3):
    """A prior of 16x16 images whose sides must be multiples of 2; no weight is zero."""
    network = UNet(channels=4, multipliers=(1, 1), blocks=1, attention=(), middle_attention=False)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((TILE, TILE, channels)), 0.5, 0.5)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    shape, about = (TILE, TILE, channels), PriorMetadata()
    return Prior(
        params=jax.tree.unflatten(tree, params), network=network, image_shape=shape, about=about, tiling=tiling
    )


TINY = tiny_unet(Tiling(TILE, MARGIN))
