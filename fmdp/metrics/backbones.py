"""AlexNet and VGG16 up to their last convolution: what LPIPS, DISTS and the features of VGG16 have in common."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fmdp.errors import InputError
from fmdp.types import Images

# From images in [-1, 1] to the scale of the training images: in [0, 1], minus ImageNet's mean, over its deviation.
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


def max_pool(x: Array, side: int) -> Array:
    """The pool of both published networks, with stride 2 and without padding."""
    return nn.max_pool(x, (side, side), (2, 2))


class Backbone(nn.Module):
    """A network on the convolutions of a backbone, which have the names of the published weights.

    Attributes:
      backbone: a key of STAGES.
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

    def stage_outputs(self, images: Images, pool: Callable[[Array, int], Array] = max_pool) -> list[Array]:
        """The output [n, h, w, channels] of each stage for n = prod(...) images [..., H, W, 3] in [-1, 1].

        Args:
          images: of any size that the pools allow.
          pool: a function of a map and the side of the published pool, in whose place it stands.

        Raises:
          InputError: the images are smaller than the pools of the backbone allow.
        """
        (height, width), least = images.shape[-3:-1], MIN_SIDE[self.backbone]
        if min(height, width) < least:
            who = f"{type(self).__name__} ({self.backbone})"
            raise InputError(f"{who} needs images of {least} pixels a side, not {height}x{width}")
        x = (images.reshape(-1, *images.shape[-3:]) - jnp.array(SHIFT)) / jnp.array(SCALE)
        outputs = []
        for stage, convolutions in zip(STAGES[self.backbone], self.convolutions, strict=True):
            if stage.pool:
                x = pool(x, stage.pool)
            for conv in convolutions:
                x = nn.relu(conv(x))
            outputs.append(x)
        return outputs


class ImageDistance(Backbone):
    """A learned distance [...] between images [..., H, W, 3] in [-1, 1]; zero, up to rounding, for equal images.

    Give it images `as_saved`. A subclass defines what it keeps of an image and how it compares that, so that the clean
    image of many restorations is processed once.
    """

    def features(self, images: Images) -> Any:
        """What `compare` needs of n = prod(...) images."""
        raise NotImplementedError

    def compare(self, features: Any, reference: Any) -> Float[Array, "n"]:
        """The distances of n images from n others, given the `features` of both."""
        raise NotImplementedError

    def __call__(self, images: Images, reference: Images) -> Float[Array, "*batch"]:
        return self.compare(self.features(images), self.features(reference)).reshape(images.shape[:-3])


class VGG16Features(Backbone):
    """The 512 features [..., 512] of VGG16: the mean over the image of relu5_3, its last convolution.

    Images [..., H, W, 3] in [-1, 1] are taken in their own size, without resizing. (Inception's 2,048 features are the
    ones of FID; these are not, and distances between them have names of their own.)
    """

    backbone: str = "vgg"

    def __call__(self, images: Images) -> Float[Array, "*batch 512"]:
        last = self.stage_outputs(images)[-1]
        return last.mean((1, 2)).reshape(*images.shape[:-3], last.shape[-1])


def as_saved(images: Array) -> Array:
    """Images as an 8-bit file would give them back: clipped to [-1, 1] and rounded to the nearest of 256 levels.

    Learned metrics take images in this form: it is what a person sees, and how published values are computed.
    """
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255) / 127.5 - 1
