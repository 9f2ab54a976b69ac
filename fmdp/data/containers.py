"""Sets of images, in memory or not, with the few operations of an array that are needed."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

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


class UInt8Images:
    """Images kept as one array of bytes [n, H, W, C], in a quarter of the memory."""

    def __init__(self, pixels: np.ndarray):
        """Images whose pixels are these bytes, 0 to 255."""
        self.pixels = pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Index) -> np.ndarray:
        return to_float(self.pixels[index])

    def take(self, index: np.ndarray) -> "UInt8Images":
        """The images with these indices, as bytes."""
        return UInt8Images(self.pixels[index])


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Bytes as float32 in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - 1


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
        images = self.images
        taken = images[index] if isinstance(images, np.ndarray) else images.take(index)  # type: ignore[attr-defined]
        return Examples(taken, self.labels[index], [self.names[i] for i in index])


class RawDataset(NamedTuple):
    """The examples of a source, in two parts if it has an official split.

    Attributes:
      train, test: the official parts; without an official split, all examples and None.
      left_out: one line for each example that cannot be used.
    """

    train: Examples
    test: Examples | None = None
    left_out: tuple[str, ...] = ()
