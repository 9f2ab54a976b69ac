"""Fields on images of any size from a field of one size, by overlapping tiles that cover a canvas.

The tiles of a field for images of one size overlap by half and are blended. The tiles of a fully convolutional field
overlap by two margins, which are thrown away: each pixel comes from one tile, and lies at least a margin inside it,
except at the edges of the picture.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fmdp.parallel.batching import map_rows
from fmdp.types import AverageField

Shape = tuple[int, int, int]
TILES_AT_ONCE = 64  # on a device, so that memory does not grow with the picture


class Tiling(NamedTuple):
    """How a fully convolutional field covers pictures: pixels a side of its tiles, and of the margin thrown away."""

    size: int
    margin: int


def canvas_shape(image: Shape, tile: Shape, margin: int | None = None) -> Shape:
    """The smallest shape that contains an image of shape (H, W, C) and that tiles cover exactly.

    Args:
      margin: of the tiles, which are at any place of the canvas; None for tiles that overlap by half.
    """

    def length(wanted, side):
        stride = max(side // 2, 1)
        return side + stride * math.ceil(max(wanted - side, 0) / stride)

    if margin is not None:
        return (max(image[0], tile[0]), max(image[1], tile[1]), tile[2])
    return (length(image[0], tile[0]), length(image[1], tile[1]), tile[2])


def starts(length: int, side: int, margin: int | None = None) -> list[int]:
    """Where the tiles of one axis start; with a margin, the last tile is moved inwards where it would stand out."""
    if margin is None:
        return list(range(0, length - side + 1, max(side // 2, 1)))
    return [*range(0, length - side, side - 2 * margin), length - side]


def corners(canvas: Shape, tile: Shape, margin: int | None = None) -> list[tuple[int, int]]:
    """The upper left corners of the tiles of a canvas."""
    return list(itertools.product(*(starts(canvas[axis], tile[axis], margin) for axis in (0, 1))))


def cores(length: int, side: int, margin: int) -> list[tuple[int, int]]:
    """The first pixel of each tile of one axis that is kept, and the first thereafter that is not, on the canvas."""
    begins = starts(length, side, margin)
    seams = [(before + side + after) // 2 for before, after in itertools.pairwise(begins)]
    return list(zip([0, *seams], [*seams, length], strict=True))


def tiled(
    field: AverageField, canvas: Shape, tile: Shape, margin: int | None = None, at_once: int = TILES_AT_ONCE
) -> AverageField:
    """The average field on images [..., H, W, C] with the shape of the canvas, from overlapping tiles.

    Without a margin, each tile has most weight in its middle (a Hann window), so that no seams are visible. The devices
    share the tiles. If the canvas is one tile, the result is the field itself.

    Args:
      field: for images with the shape of a tile; a pytree on every device (`batching.replicate_local`).
      canvas: as from `canvas_shape`.
      tile: (H, W, C).
      margin: pixels thrown away along the inner edges of the tiles of a fully convolutional field.
      at_once: tiles on one device at a time.
    """
    places = corners(canvas, tile, margin)
    if len(places) == 1:
        return field
    rows, columns = (
        np.array(begins)[:, None] + np.arange(side)
        for begins, side in zip(zip(*places, strict=True), tile[:2], strict=True)
    )
    where: Any = (..., rows[:, :, None], columns[:, None, :], slice(None))
    join = _blended(canvas, tile, where) if margin is None else _joined(canvas, tile, margin)

    def whole(x: Array, s: Any, t: Any) -> Array:
        tiles = jnp.moveaxis(x[where], -4, 0)
        return join(x, map_rows(lambda given, tile: given[0](tile, *given[1:]), (field, s, t), tiles, at_once))

    return whole


def _blended(canvas: Shape, tile: Shape, where: Any) -> Callable[[Array, Array], Array]:
    """The mean of the tiles [n, ..., h, w, C] at each pixel, weighted by a window."""
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in tile[:2]))[..., None]
    total = np.zeros((*canvas[:2], 1))
    np.add.at(total, where, np.broadcast_to(window, (len(where[1]), *window.shape)))

    def join(x: Array, moved: Array) -> Array:
        summed = jnp.zeros_like(x).at[where].add(jnp.moveaxis(moved * window.astype(x.dtype), 0, -4))
        return summed / total.astype(x.dtype)

    return join


def _joined(canvas: Shape, tile: Shape, margin: int) -> Callable[[Array, Array], Array]:
    """The tile [n, ..., h, w, C] at each pixel whose core covers it."""
    owners, offsets = [], []
    for length, side in zip(canvas[:2], tile[:2], strict=True):
        widths = [last - first for first, last in cores(length, side, margin)]
        owners.append(np.repeat(np.arange(len(widths)), widths))
        offsets.append(np.arange(length) - np.repeat(starts(length, side, margin), widths))
    owner = owners[0][:, None] * len(starts(canvas[1], tile[1], margin)) + owners[1]

    def join(x: Array, moved: Array) -> Array:
        return jnp.moveaxis(moved, 0, -4)[..., owner, offsets[0][:, None], offsets[1], :]

    return join


def crop(x: Any, shape: Shape) -> Any:
    """The central part [..., h, w, C] of images on a canvas, of the kind of array that they are."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[-3:-1], shape[:2], strict=True))
    if isinstance(x, np.ndarray):
        return x[..., top : top + shape[0], left : left + shape[1], :]
    return lax.slice_in_dim(lax.slice_in_dim(x, top, top + shape[0], axis=-3), left, left + shape[1], axis=-2)


def pad(x: Any, canvas: Shape) -> Any:
    """Images [..., h, w, C] in the middle of a canvas, continued by reflection, of the kind of array that they are."""
    sides = [
        ((have - want) // 2, have - want - (have - want) // 2) for have, want in zip(canvas, x.shape[-3:], strict=True)
    ]
    module: Any = np if isinstance(x, np.ndarray) else jnp
    return module.pad(x, [(0, 0)] * (x.ndim - 3) + sides[:2] + [(0, 0)], mode="symmetric")
