"""Inpainting: pixels hidden by a box, at random, or under brush strokes. Hidden pixels are measured as zero (gray)."""

from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError, Range
from fmdp.operators.base import Operator, operator, static
from fmdp.types import PRNGKey


@operator
class Inpainting(Operator):
    """Multiplication by the mask [H, W, 1], 1 where the pixel is seen."""

    mask: Any
    image_shape: Any = static()
    name: Any = static()

    def measure(self, x):
        """The seen pixels, zero elsewhere: of the shape of x."""
        return self.mask * x

    @property
    def hidden_share(self) -> float:
        """The share of the pixels that are hidden, in [0, 1]; the mask may not be traced."""
        return float(np.mean(np.asarray(self.mask) == 0))


def mask_fault(mask: Any) -> str:
    """What a mask should be instead of these numbers; "" if it can be used.

    True, 1 or 255 stand for observed pixels, and False or 0 for hidden ones. There must be some of each.
    """
    if mask is None:
        return ""
    values = np.asarray(mask, float)
    largest = values.max(initial=0)
    if largest not in (0, 1, 255) or ((values != 0) & (values != largest)).any():
        found = np.unique(values)
        shown = ", ".join(f"{value:.4g}" for value in found[:3])
        return f"1 (or 255) for observed pixels and 0 for hidden ones, not {shown}{', ...' * (len(found) > 3)}"
    if values.size and values.min() == largest:
        return f"one that hides some pixels and not others: it hides {0 if largest else 100} %"
    return ""


def box_inpainting(image_shape, key, size: int) -> Operator:
    """Hides the centred square of the given side."""
    height, width, _ = image_shape
    if not 0 < size <= (most := min(height, width)):
        raise InputError(f"box_inpainting: size={size} does not fit into {height}x{width}: pass 1 to {most}")
    top, left = (height - size) // 2, (width - size) // 2
    mask = np.ones((height, width, 1))
    mask[top : top + size, left : left + size] = 0
    return Inpainting(mask=jnp.asarray(mask, float), image_shape=image_shape, name="box_inpainting")


def random_inpainting(image_shape, key, ratio: Annotated[float, Range(0, 1, excluded=1)]) -> Operator:
    """Hides exactly this share of the pixels, drawn from the key."""
    height, width, _ = image_shape
    ranks = jax.random.permutation(key, height * width).reshape(height, width, 1)
    mask = (ranks >= round(ratio * height * width)).astype(float)
    return Inpainting(mask=mask, image_shape=image_shape, name="random_inpainting")


def brush_inpainting(
    image_shape,
    key,
    strokes: Annotated[int, Range(1, 256)] = 4,
    width: Annotated[float, Range(0, 256, excluded=0)] = 0.08,
    mask: Annotated[ArrayLike | None, mask_fault] = None,
) -> Operator:
    """Hides the pixels under random brush strokes, or those outside a given mask.

    Args:
      strokes: their number; each has 8 segments of changing direction.
      width: of a stroke, as a share of the shorter side.
      mask: [H, W] or [H, W, 1], True, 1 or 255 where the pixel is observed and False or 0 where it is hidden; replaces
        the strokes.
    """
    height, columns, _ = image_shape
    if mask is not None:
        if np.shape(mask) not in ((height, columns), (height, columns, 1)):
            raise InputError(f"brush_inpainting: the mask has shape {np.shape(mask)}: pass {(height, columns)}")
        mask = mask if isinstance(mask, jax.core.Tracer) else np.asarray(mask) != 0
        mask = jnp.asarray(mask, float).reshape(height, columns, 1)
    else:
        mask = _brush(key, height, columns, strokes, width * min(height, columns))
    return Inpainting(mask=mask, image_shape=image_shape, name="brush_inpainting")


@partial(jax.jit, static_argnames=("height", "columns", "strokes", "segments"))
def _brush(key: PRNGKey, height: int, columns: int, strokes: int, width: float | Array, segments: int = 8) -> Array:
    """The pixels [height, columns, 1] farther than half the width from every segment of every stroke."""
    # In float32 also where 64 bits are enabled, so that the strokes are the same.
    uniform, normal = partial(jax.random.uniform, dtype=jnp.float32), partial(jax.random.normal, dtype=jnp.float32)
    start, heading, turn, length = jax.random.split(key, 4)
    side = jnp.asarray([height - 1, columns - 1], jnp.float32)
    angles = 2 * jnp.pi * uniform(heading, (strokes, 1)) + jnp.cumsum(0.8 * normal(turn, (strokes, segments)), 1)
    lengths = 0.15 * min(height, columns) * uniform(length, (strokes, segments), minval=0.5, maxval=1.5)
    moves = lengths[..., None] * jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
    points = side * uniform(start, (strokes, 1, 2)) + jnp.cumsum(moves, 1)
    points = jnp.clip(points, 0, side)  # strokes slide along the border instead of leaving
    a, b = points[:, :-1].reshape(-1, 1, 1, 2), points[:, 1:].reshape(-1, 1, 1, 2)
    pixels = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(columns), indexing="ij"), -1)
    along = jnp.sum((pixels - a) * (b - a), -1) / jnp.maximum(jnp.sum((b - a) ** 2, -1), 1e-6)
    nearest = a + jnp.clip(along, 0, 1)[..., None] * (b - a)
    distance = jnp.sqrt(jnp.min(jnp.sum((pixels - nearest) ** 2, -1), 0))
    return (distance > width / 2).astype(float)[..., None]
