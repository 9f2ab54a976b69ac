"""The tiles of a restoration: their size, how many fit into memory at once, and denoising by one compiled batch.

The batch is one program for pictures of all sizes, because the host cuts the pictures and joins the tiles.
"""

import itertools
import math
import pathlib
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.flow.average_field import denoise
from fmdp.flow.tiling import TILES_AT_ONCE, Shape, Tiling, canvas_shape, corners, starts, weights
from fmdp.parallel.batching import shard_rows
from fmdp.restoration.request import Request
from fmdp.types import AverageField, SizedField

ACCELERATOR_TILES = 16  # at once, of a fully convolutional field: more pixels do not speed up a GPU
FREE_SHARE = 0.5  # of the free memory, by default


class Tiles(NamedTuple):
    """The tiles of a restoration.

    Attributes:
      shape: (H, W, C) of a tile.
      margin: half their overlap; None for tiles that overlap by half and are blended (`tiling.tiled`).
      at_once: on one device.
    """

    shape: Shape
    margin: int | None
    at_once: int = TILES_AT_ONCE

    def canvas(self, image: Shape) -> Shape:
        """The shape that contains an image (H, W, C) and that tiles cover exactly."""
        return canvas_shape(image, self.shape, self.margin)

    def count(self, canvas: Shape) -> int:
        """How many tiles cover a canvas."""
        return len(corners(canvas, self.shape, self.margin))


def choose_tiles(prior: SizedField, request: Request) -> Tiles:
    """The tiles that the request names or, by default, those of the prior, as many at once as fit into memory.

    Only a fully convolutional prior, which says so by a `stride`, takes tiles of other sizes than its images.

    Raises:
      ParameterError: the prior does not take such tiles, or one of them does not fit into `memory_gb`.
    """
    stride, (height, width, channels) = getattr(prior, "stride", None), prior.image_shape
    if stride is None:
        if request.tile is not None and (request.tile, request.tile) != (height, width):
            raise request.error("tile", f"this prior only takes images of {height}x{width}: leave it out")
        tiles = Tiles(prior.image_shape, None)
        return tiles if request.memory_gb is None else tiles._replace(at_once=_fitting(prior, tiles.shape, request))
    largest = min(height, width) // stride * stride
    size, margin = prior.tiling or Tiling(largest, largest // 8)  # type: ignore[attr-defined]
    size = int(request.tile or size)
    if size % stride:
        nearest = max(round(size / stride), 1) * stride
        raise request.error("tile", f"this prior takes multiples of {stride}: set {nearest}")
    shape = (size, size, channels)
    return Tiles(shape, min(margin, size // 4) // stride * stride, _fitting(prior, shape, request))


def _fitting(prior: SizedField, tile: Shape, request: Request) -> int:
    """How many tiles one device takes at once."""
    devices = jax.local_devices()
    on_cpu = devices[0].platform == "cpu"
    most = TILES_AT_ONCE if getattr(prior, "stride", None) is None else 1 if on_cpu else ACCELERATOR_TILES
    numbers = getattr(prior, "floats_per_pixel", None)
    if numbers is None:
        return most
    each = 4 * numbers * math.prod(tile[:2]) * (len(devices) if on_cpu else 1)  # the devices of a CPU share its memory
    if request.memory_gb is None:
        return max(1, min(most, int(FREE_SHARE * _free_memory(devices[0]) // each)))
    fit = int(request.memory_gb * 1e9 // each)
    if fit < 1:
        share = f" on each of {len(devices)} devices" if on_cpu and len(devices) > 1 else ""
        least = math.ceil(each / 1e7) / 100
        size = f"{tile[0]}x{tile[1]}"
        raise request.error("memory_gb", f"one tile of {size}{share} takes about {least:g}: set at least that")
    return min(most, fit)


@lru_cache  # so that a folder of pictures takes one size of batch
def _free_memory(device: jax.Device) -> float:
    """Bytes that were free on a device when this was first asked, or infinity where it does not say."""
    if device.platform != "cpu":
        told = device.memory_stats() or {}
        return told.get("bytes_limit", math.inf) - told.get("bytes_in_use", 0)
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def denoise_in_tiles(field: AverageField, x: np.ndarray, s: Any, t: np.ndarray, tiles: Tiles) -> np.ndarray:
    """D_{s,t} of images [n, H, W, C] on the host, each with its own t, by a field for tiles.

    A program for `at_once` tiles on every device is compiled once, whatever the sizes and the number of images.

    Args:
      field: a pytree on every device of this process (`batching.replicate_local`).
      s, t: [] and [n].
    """
    (height, width, _), margin = tiles.shape, tiles.margin or 0
    rows, columns = (
        list(zip(starts(length, side, margin), weights(length, side, margin), strict=True))
        for length, side in zip(x.shape[1:3], (height, width), strict=True)
    )
    jobs = list(itertools.product(range(len(x)), rows, columns))
    batch = tiles.at_once * len(jax.local_devices())
    restored = np.zeros_like(x)
    for begin in range(0, len(jobs), batch):
        part = jobs[begin : begin + batch]
        padded = [*part, *part[:1] * (batch - len(part))]
        cut = np.stack([x[i, top : top + height, left : left + width] for i, (top, _), (left, _) in padded])
        done = np.asarray(_denoise_batch(field, cut, s, t[[i for i, _, _ in padded]]))
        for tile, (i, (top, down), (left, across)) in zip(done, part, strict=False):
            restored[i, top : top + height, left : left + width] += tile * np.outer(down, across)[..., None]
    return restored


@jax.jit
def _denoise_batch(field: AverageField, x: Array, s: Array, t: Array) -> Array:
    def denoise_rows(shared, rows):
        field, s = shared
        x, t = rows
        return denoise(field, x, jnp.broadcast_to(s, t.shape), t)

    devices = jax.local_devices()
    return (denoise_rows if len(devices) == 1 else shard_rows(denoise_rows, devices))((field, s), (x, t))
