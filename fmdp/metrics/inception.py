"""The Inception-v3 with which the Fréchet Inception distance was published, up to its features.

This is the network of Szegedy et al. 2015 (arXiv 1512.00567) in the TensorFlow release of 2015-12-05, which Heusel et
al. 2017 (arXiv 1706.08500) used and pytorch-fid ported. It differs from the Inception-v3 of model libraries: average
pools exclude the padding from the mean, and the last block uses a max pool.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from fmdp.types import Images

SIDE = 299
FEATURES = 2048
HALVING = ((3, 3), 2, "VALID")  # kernel, stride and padding of the convolutions that halve their input
ROW, COLUMN = (1, 7), (7, 1)


class Inception(nn.Module):
    """The 2,048 features [..., 2048] after the last average pool, of images [..., H, W, 3] in [-1, 1] of any size.

    Images are resized to 299 x 299, bilinearly between pixel centres and without antialiasing, as published. The
    convolutions have the names of the published weights; batch normalisation is folded into their kernels and biases.
    """

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "*batch 2048"]:
        *batch, _, _, colours = images.shape
        x = jax.image.resize(images, (*batch, SIDE, SIDE, colours), "bilinear", antialias=False)
        x = x.reshape(-1, SIDE, SIDE, colours)
        x = _conv(x, "Conv2d_1a_3x3", 32, *HALVING)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
        x = _conv(x, "Conv2d_2b_3x3", 64, (3, 3))
        x = _conv(_halved(x), "Conv2d_3b_1x1", 80)
        x = _conv(x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID")
        x = _halved(x)
        for letter, pooled in zip("bcd", (32, 64, 64), strict=True):
            x = _block_a(x, f"Mixed_5{letter}", pooled)
        x = _block_b(x, "Mixed_6a")
        for letter, inner in zip("bcde", (128, 160, 160, 192), strict=True):
            x = _block_c(x, f"Mixed_6{letter}", inner)
        x = _block_d(x, "Mixed_7a")
        x = _block_e(x, "Mixed_7b", _average(x))
        x = _block_e(x, "Mixed_7c", nn.max_pool(x, (3, 3), (1, 1), "SAME"))
        return x.mean((1, 2)).reshape(*batch, FEATURES)


def _conv(x: Array, name: str, channels: int, kernel=(1, 1), stride=1, padding="SAME") -> Array:
    # A measure must not depend on the device: fast matrix products would change its third digit.
    return nn.relu(nn.Conv(channels, kernel, stride, padding, precision="highest", name=name)(x))


def _chain(x: Array, name: str, *layers: tuple) -> Array:
    """Consecutive convolutions with the names name_1, name_2 and so on."""
    for i, layer in enumerate(layers, 1):
        x = _conv(x, f"{name}_{i}", *layer)
    return x


def _fork(x: Array, name: str) -> Array:
    return _join(_conv(x, f"{name}a", 384, (1, 3)), _conv(x, f"{name}b", 384, (3, 1)))


def _join(*branches: Array) -> Array:
    return jnp.concatenate(branches, -1)


def _average(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _halved(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _block_a(x: Array, name: str, pooled: int) -> Array:
    return _join(
        _conv(x, f"{name}.branch1x1", 64),
        _chain(x, f"{name}.branch5x5", (48,), (64, (5, 5))),
        _chain(x, f"{name}.branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3))),
        _conv(_average(x), f"{name}.branch_pool", pooled),
    )


def _block_b(x: Array, name: str) -> Array:
    return _join(
        _conv(x, f"{name}.branch3x3", 384, *HALVING),
        _chain(x, f"{name}.branch3x3dbl", (64,), (96, (3, 3)), (96, *HALVING)),
        _halved(x),
    )


def _block_c(x: Array, name: str, inner: int) -> Array:
    double = (inner,), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW)
    return _join(
        _conv(x, f"{name}.branch1x1", 192),
        _chain(x, f"{name}.branch7x7", (inner,), (inner, ROW), (192, COLUMN)),
        _chain(x, f"{name}.branch7x7dbl", *double),
        _conv(_average(x), f"{name}.branch_pool", 192),
    )


def _block_d(x: Array, name: str) -> Array:
    return _join(
        _chain(x, f"{name}.branch3x3", (192,), (320, *HALVING)),
        _chain(x, f"{name}.branch7x7x3", (192,), (192, ROW), (192, COLUMN), (192, *HALVING)),
        _halved(x),
    )


def _block_e(x: Array, name: str, pooled: Array) -> Array:
    return _join(
        _conv(x, f"{name}.branch1x1", 320),
        _fork(_chain(x, f"{name}.branch3x3", (384,)), f"{name}.branch3x3_2"),
        _fork(_chain(x, f"{name}.branch3x3dbl", (448,), (384, (3, 3))), f"{name}.branch3x3dbl_3"),
        _conv(pooled, f"{name}.branch_pool", 192),
    )
