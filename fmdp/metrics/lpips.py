"""LPIPS 0.1, the learned perceptual distance of Zhang et al. 2018 (arXiv 1801.03924), on AlexNet or VGG16."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fmdp.metrics.backbones import STAGES, ImageDistance
from fmdp.types import Images


class LPIPS(ImageDistance):
    """The distance [...] between images [..., H, W, 3] in [-1, 1]; zero, up to rounding, for equal images.

    Attributes:
      backbone: "alex" or "vgg".

    Raises:
      InputError: the images are smaller than the pools of the backbone allow.
    """

    def setup(self):
        super().setup()
        self.linear = [
            self.param(f"lin{i}", nn.initializers.ones, (stage.channels,))
            for i, stage in enumerate(STAGES[self.backbone])
        ]

    def features(self, images: Images) -> list[Array]:
        """The five feature maps [n, h, w, channels] of n = prod(...) images, normalised to length 1 in every pixel."""
        return [x / (jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)) + 1e-10) for x in self.stage_outputs(images)]

    def compare(self, features: list[Array], reference: list[Array]) -> Float[Array, "n"]:
        """The distances of n images from n others, given the `features` of both."""
        layers = zip(features, reference, self.linear, strict=True)
        parts = [jnp.mean(jnp.sum((a - b) ** 2 * weights, -1), (1, 2)) for a, b, weights in layers]
        return jnp.sum(jnp.stack(parts), 0)
