"""Fields on images of any size from a field of one size, by overlapping tiles that cover a canvas."""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fmdp.parallel.batching import map_rows
from fmdp.types import AverageField

Shape = tuple[int, int, int]
TILES_AT_ONCE = 64  # on a device, so that memory does not grow with the picture


def canvas_shape(image: Shape, tile: Shape) -> Shape:
    """The smallest shape that contains an image of shape (H, W, C) and that half-overlapping tiles cover exactly."""

    def length(wanted, side):
        stride = max(side // 2, 1)
        return side + stride * math.ceil(max(wanted - side, 0) / stride)

    return (length(image[0], tile[0]), length(image[1], tile[1]), tile[2])


def corners(canvas: Shape, tile: Shape) -> list[tuple[int, int]]:
    """The upper left corners of the tiles of a canvas."""
    rows, columns = (
        range(0, length - side + 1, max(side // 2, 1)) for length, side in zip(canvas[:2], tile[:2], strict=True)
    )
    return list(itertools.product(rows, columns))


def tiled(field: AverageField, canvas: Shape, tile: Shape) -> AverageField:
    """The average field on images [..., H, W, C] with the shape of the canvas, blended from overlapping tiles.

    Each tile has most weight in its middle (a Hann window), so that no seams are visible. The devices share the tiles.
    If the canvas is one tile, the result is the field itself.

    Args:
      field: for images with the shape of a tile; a pytree on every device (`batching.replicate_local`).
      canvas: as from `canvas_shape`.
      tile: (H, W, C).
    """
    places = corners(canvas, tile)
    if len(places) == 1:
        return field
    height, width = tile[:2]
    rows, columns = (
        np.array(starts)[:, None] + np.arange(side)
        for starts, side in zip(zip(*places, strict=True), tile[:2], strict=True)
    )
    where: Any = (..., rows[:, :, None], columns[:, None, :], slice(None))
    window = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))[..., None]
    total = np.zeros((*canvas[:2], 1))
    np.add.at(total, where, np.broadcast_to(window, (len(places), *window.shape)))

    def blended(x: Array, s: Any, t: Any) -> Array:
        tiles = jnp.moveaxis(x[where], -4, 0)
        moved = map_rows(lambda given, tile: given[0](tile, *given[1:]), (field, s, t), tiles, TILES_AT_ONCE)
        summed = jnp.zeros_like(x).at[where].add(jnp.moveaxis(moved * window.astype(x.dtype), 0, -4))
        return summed / total.astype(x.dtype)

    return blended


def crop(x: Array, shape: Shape) -> Array:
    """The central part [..., h, w, C] of images on a canvas."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[-3:-1], shape[:2], strict=True))
    return lax.slice_in_dim(lax.slice_in_dim(x, top, top + shape[0], axis=-3), left, left + shape[1], axis=-2)


def pad(x: Array, canvas: Shape) -> Array:
    """Images [..., h, w, C] in the middle of a canvas, continued by reflection."""
    sides = [
        ((have - want) // 2, have - want - (have - want) // 2) for have, want in zip(canvas, x.shape[-3:], strict=True)
    ]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + sides[:2] + [(0, 0)], mode="symmetric")
