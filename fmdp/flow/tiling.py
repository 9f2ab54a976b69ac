"""Fields on images of any size from a field of one size, by overlapping tiles that cover a canvas.

The tiles of a field for images of one size overlap by half and are blended. The tiles of a fully convolutional field
overlap by two margins. In the middle of that, one tile fades into the next; what lies beyond is thrown away.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fmdp.parallel.batching import map_rows
from fmdp.types import AverageField

Shape = tuple[int, int, int]
TILES_AT_ONCE = 64  # on a device, so that memory does not grow with the picture


class Tiling(NamedTuple):
    """How a fully convolutional field covers pictures: pixels a side of its tiles, and of their margins (`tiled`)."""

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
    rows, columns = (starts(canvas[axis], tile[axis], margin) for axis in (0, 1))
    return list(itertools.product(rows, columns))


def weights(length: int, side: int, margin: int) -> np.ndarray:
    """The weights [tiles, side] of the pixels of each tile of one axis in the mean at a pixel of the canvas.

    Midway between the edges of two tiles, the weight passes from one to the other over as many pixels as the margin
    has, at most. Half a margin is thrown away entirely. There is no fade without a margin.
    """
    begins = np.array(starts(length, side, margin))
    seams = (begins[:-1] + side + begins[1:]) / 2
    places = begins[:, None] + np.arange(side) + 0.5

    def passed(seam):
        return np.sin(np.pi / 2 * np.clip((places - seam) / max(margin, 1) + 0.5, 0, 1)) ** 2

    before = np.insert(seams, 0, -np.inf)
    return (passed(before[:, None]) - passed(np.append(seams, np.inf)[:, None])).astype(np.float32)


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
      margin: pixels from the edge of a tile to the middle of the fade, for a fully convolutional field; at most a
        quarter of a tile.
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
    window, total = _window(canvas, tile, where) if margin is None else (_fade(canvas, tile, margin), None)

    def whole(x: Array, s: Any, t: Any) -> Array:
        tiles = jnp.moveaxis(x[where], -4, 0)
        moved = map_rows(lambda given, tile: given[0](tile, *given[1:]), (field, s, t), tiles, at_once)
        weight = jnp.expand_dims(window, range(1, x.ndim - 2)) if window.ndim == 4 else window
        summed = jnp.zeros_like(x).at[where].add(jnp.moveaxis(moved * weight.astype(x.dtype), 0, -4))
        return summed if total is None else summed / total.astype(x.dtype)

    return whole


def _window(canvas: Shape, tile: Shape, where: Any) -> tuple[np.ndarray, np.ndarray]:
    """The weights [h, w, 1] of the pixels of every tile, and their sum at each pixel of the canvas."""
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in tile[:2]))[..., None]
    total = np.zeros((*canvas[:2], 1))
    np.add.at(total, where, np.broadcast_to(window, (len(where[1]), *window.shape)))
    return window, total


def _fade(canvas: Shape, tile: Shape, margin: int) -> np.ndarray:
    """The weights [n, h, w, 1] of the pixels of each tile; they sum to 1."""
    rows, columns = (weights(canvas[axis], tile[axis], margin) for axis in (0, 1))
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(-1, *tile[:2], 1)


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
