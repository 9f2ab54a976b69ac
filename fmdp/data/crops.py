"""Crops of pictures at places and scales that are drawn: small images from large photographs."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fmdp.data.containers import Index
from fmdp.data.decoding import LazyImages

DRAWS = 3  # numbers that decide a crop: its scale, and its place across and down


@dataclass(frozen=True, kw_only=True)
class RandomCrops(LazyImages):
    """Image files as crops [n, size, size, channels], decoded when they are indexed: `containers.ByteImages`.

    An index gives each file one fixed crop, which its name decides; `read_crops` gives crops by other draws. Both have
    the same law: the scale is uniform between the smallest that fits (or `min_scale`) and 1, and so is the place.

    Attributes:
      min_scale: the picture is shrunk to no less than this part of its size, in [0, 1].
      kept: whether decoded images stay in memory, whole, with `bytes_per_pixel`.
    """

    min_scale: float

    @staticmethod
    def bytes_per_pixel(channels: int) -> int:
        """The memory of one pixel of a decoded image, as Pillow holds it."""
        return 4 if channels == 3 else 1

    def read_bytes(self, index: Index) -> np.ndarray:
        """The fixed crop of each file, uint8 from 0 to 255."""
        chosen = np.arange(len(self))[index]
        fixed = [fixed_draw(self.names[i]) for i in chosen.tolist()]
        return self.read_crops(chosen, np.array(fixed).reshape(-1, DRAWS))

    def read_crops(self, index: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The crops of the files at an index [b] by draws [b, DRAWS] in [0, 1), uint8 [b, size, size, channels]."""
        crops = np.empty((len(index), *self.shape[1:]), np.uint8)
        for crop, i, draw in zip(crops, index.tolist(), draws, strict=True):
            picture = self._picture(i)
            crop[:] = cut(picture, crop_box(*picture.size, len(crop), self.min_scale, draw), len(crop))
        return crops

    def _picture(self, index: int) -> Image.Image:
        if not self.kept:
            return self._read(index, self.preprocessor.upright)
        if index not in self._pictures:
            self._pictures[index] = self._read(index, self.preprocessor.upright)
        return self._pictures[index]

    @functools.cached_property
    def _pictures(self) -> dict[int, Image.Image]:
        return {}


def fixed_draw(name: str) -> np.ndarray:
    """The draws [DRAWS] of the fixed crop of a file, by its name alone: not by a seed, nor by the other files."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(np.frombuffer(digest, "<u4")).random(DRAWS)


def crop_box(width: int, height: int, size: int, min_scale: float, draw: np.ndarray) -> tuple[int, int, int, int]:
    """The square of a picture that becomes a crop of `size` pixels: left, top, right, bottom, in whole pixels.

    Args:
      width, height: of the picture, both at least `size`.
      min_scale: the picture is shrunk to no less than this part, nor to a shorter side below `size`.
      draw: numbers [DRAWS] in [0, 1) for the scale, the place across and the place down.
    """
    shorter = min(width, height)
    smallest = max(min_scale, size / shorter)
    side = min(round(size / (smallest + (1 - smallest) * draw[0])), shorter)
    left, top = (int(part * (length - side + 1)) for part, length in zip(draw[1:], (width, height), strict=True))
    return left, top, left + side, top + side


def cut(picture: Image.Image, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """A square of a picture at `size` pixels a side, uint8 [size, size, channels].

    A larger square is shrunk by Pillow's antialiased Lanczos filter, which takes in what lies beside the square: the
    crop is that of the shrunk picture, also at its edges.
    """
    if box[2] - box[0] == size:
        return np.asarray(picture.crop(box)).reshape(size, size, -1)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box)).reshape(size, size, -1)
