"""Priors in closed form, for tests of what surrounds them."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from fmdp.exact import Gaussian

PIXELS = Gaussian(jnp.zeros((8, 8, 1)), 0.25)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IndependentPixels:
    """The prior of 8x8 images of independent pixels of variance 1/4."""

    one: Any = 1.0  # a leaf, as a network has
    channels: int = field(default=1, metadata=dict(static=True))

    @property
    def image_shape(self):
        return (8, 8, self.channels)

    def __call__(self, x, s, t):
        gray = [PIXELS.average_field(x[..., c : c + 1], s, t) for c in range(self.channels)]
        return self.one * jnp.concatenate(gray, -1)


PRIOR, COLOUR = IndependentPixels(), IndependentPixels(channels=3)
