"""DISTS, a distance of structure and texture on VGG16 (Ding et al. 2020, arXiv 2004.07728)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from fmdp.metrics.backbones import STAGES, ImageDistance
from fmdp.types import Images

CHANNELS = (3, *(stage.channels for stage in STAGES["vgg"]))  # of the image itself and of the five stages
EPSILON = 1e-6  # c1 and c2 of the published code


class DISTS(ImageDistance):
    """The distance [...] between images [..., H, W, 3] in [-1, 1]: 1 minus weighted similarities.

    Six maps of each image are compared channel by channel: the image in [0, 1], and the stages of VGG16 with L2 pools.
    Texture is the similarity of the means, structure that of the deviations from them; `alpha` and `beta` weigh both.
    Images are taken in their own size; the paper reduces larger ones to 256 pixels on the shorter side.

    Raises:
      InputError: the images are smaller than VGG16's own pools allow.
    """

    backbone: str = "vgg"

    def setup(self):
        super().setup()
        self.alpha, self.beta = (self.param(name, nn.initializers.ones, (sum(CHANNELS),)) for name in ("alpha", "beta"))

    def features(self, images: Images) -> list[Array]:
        """The six maps [n, h, w, channels] of n = prod(...) images."""
        return [(images.reshape(-1, *images.shape[-3:]) + 1) / 2, *self.stage_outputs(images, l2_pool)]

    def compare(self, features: list[Array], reference: list[Array]) -> Float[Array, "n"]:
        """The distances of n images from n others, given the `features` of both."""
        total = jnp.sum(self.alpha) + jnp.sum(self.beta)
        ends = np.cumsum(CHANNELS)[:-1]
        alpha, beta = (jnp.split(weights / total, ends) for weights in (self.alpha, self.beta))
        similar = [
            jnp.sum(a * texture + b * structure, -1)
            for a, b, (texture, structure) in zip(alpha, beta, map(_similarities, features, reference), strict=True)
        ]
        return 1 - jnp.sum(jnp.stack(similar), 0)


def l2_pool(x: Array, _: int = 2) -> Array:
    """The root of the local mean square of maps [n, h, w, c], with a Hanning window of 3 x 3 and stride 2.

    The published window has 5 samples, of which the outer ones are zero. A border of one pixel of zeros is added.
    """
    squares = x**2
    for axis in (1, 2):
        count = (x.shape[axis] + 1) // 2
        padded = jnp.pad(squares, [(1, 1) if i == axis else (0, 0) for i in range(4)])
        left, centre, right = (lax.slice_in_dim(padded, i, i + 2 * count - 1, 2, axis) for i in range(3))
        squares = (left + 2 * centre + right) / 4
    return jnp.sqrt(squares + 1e-12)


def _similarities(x: Array, y: Array) -> tuple[Array, Array]:
    """The texture and structure terms [n, c] of maps [n, h, w, c]."""
    mean_x, mean_y = (jnp.mean(a, (1, 2), keepdims=True) for a in (x, y))
    texture = (2 * mean_x * mean_y + EPSILON) / (mean_x**2 + mean_y**2 + EPSILON)
    covariance = jnp.mean((x - mean_x) * (y - mean_y), (1, 2))
    variances = (jnp.mean((a - mean) ** 2, (1, 2)) for a, mean in ((x, mean_x), (y, mean_y)))
    return texture[:, 0, 0], (2 * covariance + EPSILON) / (sum(variances) + EPSILON)
