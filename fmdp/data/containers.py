"""Sets of images, in memory or not, with the few operations of an array that are needed."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from fmdp.io.levels import to_float

Index = slice | np.ndarray


@runtime_checkable
class Images(Protocol):
    """Images [n, H, W, C]. Indexing by a slice or integers gives float32 arrays; real images are in [-1, 1]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index, /) -> np.ndarray: ...


@runtime_checkable
class ByteImages(Images, Protocol):
    """Images whose source has bytes."""

    def read_bytes(self, index: Index, /) -> np.ndarray:
        """The images at an index, uint8 from 0 to 255."""
        ...


class ArrayImages:
    """Images kept as one array [n, H, W, C], of floats in [-1, 1] or of bytes."""

    def __init__(self, pixels: np.ndarray):
        """Images whose pixels are these: float32, or uint8 from 0 to 255."""
        self.pixels = pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Index) -> np.ndarray:
        return to_float(self.pixels[index])

    def take(self, index: np.ndarray) -> "ArrayImages":
        """The images with these indices, as they are kept."""
        return type(self)(self.pixels[index])


class UInt8Images(ArrayImages):
    """Images kept as one array of bytes, in a quarter of the memory."""

    def read_bytes(self, index: Index) -> np.ndarray:
        """As `ByteImages.read_bytes`."""
        return self.pixels[index]


def take(images: Images, index: np.ndarray) -> Images:
    """The images with these indices, without reading any that are not in memory."""
    return images[index] if isinstance(images, np.ndarray) else images.take(index)  # type: ignore[attr-defined]


def read_stored(images: Images, index: Index) -> np.ndarray:
    """The images at an index as their source has them: uint8 from 0 to 255, or float32."""
    return images.read_bytes(index) if isinstance(images, ByteImages) else images[index]


class Examples(NamedTuple):
    """Images with their classes [n], all zero if there are none, and names that identify them."""

    images: Images
    labels: np.ndarray
    names: Sequence[str]

    def take(self, index: np.ndarray) -> "Examples":
        """The examples with these indices, without reading any images."""
        return Examples(take(self.images, index), self.labels[index], [self.names[i] for i in index])


class RawDataset(NamedTuple):
    """The examples of a source, in two parts if it has an official split.

    Attributes:
      train, test: the official parts; without an official split, all examples and None.
      left_out: one line for each example that cannot be used.
    """

    train: Examples
    test: Examples | None = None
    left_out: tuple[str, ...] = ()
