"""LPIPS 0.1, the learned perceptual distance of Zhang et al. 2018 (arXiv 1801.03924), on AlexNet or VGG16."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fmdp.errors import InputError
from fmdp.types import Images

# From images in [-1, 1] to the scale on which both backbones were trained.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Convolutions(NamedTuple):
    """Consecutive convolutions of one kind, each followed by a ReLU; the output of the last one is compared.

    Attributes:
      places: the position of each in the published network, which also counts ReLUs and pools.
      channels, kernel, stride, padding: of all of them.
      pool: side of the max pool with stride 2 before the first one; 0 means no pool.
    """

    places: Sequence[int]
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0


STAGES = {
    "alex": (
        Convolutions((0,), 64, kernel=11, stride=4, padding=2),
        Convolutions((3,), 192, kernel=5, padding=2, pool=3),
        Convolutions((6,), 384, pool=3),
        Convolutions((8,), 256),
        Convolutions((10,), 256),
    ),
    "vgg": (
        Convolutions((0, 2), 64),
        Convolutions((5, 7), 128, pool=2),
        Convolutions((10, 12, 14), 256, pool=2),
        Convolutions((17, 19, 21), 512, pool=2),
        Convolutions((24, 26, 28), 512, pool=2),
    ),
}
MIN_SIDE = {"alex": 31, "vgg": 16}  # pixels a side; in smaller images a pool would have no input


class LPIPS(nn.Module):
    """The distance [...] between images [..., H, W, 3] in [-1, 1]; zero, up to rounding, for equal images.

    Attributes:
      backbone: "alex" or "vgg".

    Raises:
      InputError: the images are smaller than the pools of the backbone allow.
    """

    backbone: str

    def setup(self):
        self.convolutions = [
            [
                nn.Conv(
                    stage.channels,
                    (stage.kernel, stage.kernel),
                    stage.stride,
                    stage.padding,
                    precision="highest",  # errors of fast products would be visible in small distances
                    name=f"features.{place}",
                )
                for place in stage.places
            ]
            for stage in STAGES[self.backbone]
        ]
        self.linear = [
            self.param(f"lin{i}", nn.initializers.ones, (stage.channels,))
            for i, stage in enumerate(STAGES[self.backbone])
        ]

    def features(self, images: Images) -> list[Array]:
        """The five feature maps [n, h, w, channels] of n = prod(...) images, normalised to length 1 in every pixel."""
        height, width = images.shape[-3:-1]
        if min(height, width) < MIN_SIDE[self.backbone]:
            least = MIN_SIDE[self.backbone]
            raise InputError(f"LPIPS ({self.backbone}) needs images of {least} pixels a side, not {height}x{width}")
        x = (images.reshape(-1, *images.shape[-3:]) - jnp.array(SHIFT)) / jnp.array(SCALE)
        maps = []
        for stage, convolutions in zip(STAGES[self.backbone], self.convolutions, strict=True):
            if stage.pool:
                x = nn.max_pool(x, (stage.pool, stage.pool), (2, 2))
            for conv in convolutions:
                x = nn.relu(conv(x))
            maps.append(x / (jnp.sqrt(jnp.sum(x**2, -1, keepdims=True)) + 1e-10))
        return maps

    def compare(self, features: list[Array], reference: list[Array]) -> Float[Array, "n"]:
        """The distances of n images from n others, given the `features` of both."""
        layers = zip(features, reference, self.linear, strict=True)
        parts = [jnp.mean(jnp.sum((a - b) ** 2 * weights, -1), (1, 2)) for a, b, weights in layers]
        return jnp.sum(jnp.stack(parts), 0)

    def __call__(self, images: Images, reference: Images) -> Float[Array, "*batch"]:
        return self.compare(self.features(images), self.features(reference)).reshape(images.shape[:-3])
