"""Sets of images, in memory or not, with the few operations of an array that are needed."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

Index = slice | np.ndarray
Pixels = TypeVar("Pixels", np.ndarray, jax.Array)

_COARSE = np.float32(257 / 2**15)  # 1 / 127.5 in 9 bits
_FINE = np.float32(1 / 127.5 - 257 / 2**15)


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


def to_float(images: Pixels) -> Pixels:
    """Images as float32, on the host or on a device: uint8 from 0 to 255 in [-1, 1], floats as they are.

    Bytes give pixels / 127.5 - 1 with the same bits everywhere. A GPU may round a division differently, so the quotient
    is the sum of two products, of which the first is exact.
    """
    if images.dtype != np.uint8:
        return images
    pixels = images.astype(np.float32)
    return pixels * _COARSE + pixels * _FINE - 1


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C] in [-1, 1] as bytes [..., H, W, 3], or [..., H, W] if they have one channel."""
    pixels = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


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
