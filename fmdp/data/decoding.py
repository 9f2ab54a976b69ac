"""Image files as arrays: which can be used, and how each becomes a square of bytes."""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import stat
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import IO, NamedTuple, TypeVar, cast

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from fmdp.data import deep_pictures
from fmdp.data.color_profiles import in_srgb
from fmdp.data.containers import Index
from fmdp.data.unusable import UnusableError, damage_as_unusable
from fmdp.errors import InputError
from fmdp.io.levels import Range, to_float

Read = TypeVar("Read")

_KINDS = Image.registered_extensions()
# No format that starts another program, and only what this Pillow was built with.
FORMATS = tuple(kind for kind in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") if kind in Image.OPEN)
SUFFIXES = {suffix for suffix, kind in _KINDS.items() if kind in FORMATS}


def ignore_metadata_warnings() -> None:
    """Silence Pillow's warnings about damaged metadata, which is not used, in this process.

    For programs of our own: importing this module leaves the warnings of the caller's program as they are.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def open_file(path: pathlib.Path) -> BufferedIOBase:
    """A regular file, opened for reading.

    Raises:
      UnusableError: it is a pipe, a device or another thing that could keep its reader waiting.
      OSError: it cannot be opened.
    """
    if stat.S_ISREG(path.stat().st_mode):
        # O_NONBLOCK: a pipe may have taken its place in the meantime. Windows has no such pipes, but it has O_BINARY.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    raise UnusableError("neither a file nor a link to one")


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessor:
    """How an image file becomes an array: the square in its middle, resized by Pillow's antialiased Lanczos filter.

    The image is turned upright as its EXIF data says, and the colours of an embedded profile become those of sRGB.
    Transparency is composited on white, 16-bit images are reduced to 8 bits, and only the first frame of an animation
    is used.

    Attributes:
      size: pixels per side; smaller images are not used.
      channels: 3 for colour, 1 for gray (the Rec. 601 luma, by Pillow).
      max_pixels: images with more pixels are not used.
      range: the values of black and white in images of more than 8 bits; None takes 0 and 65535, and no
        floating-point numbers.
      warns: whether a colour profile that cannot be used is logged, once for each reason.
    """

    size: int
    channels: int
    max_pixels: int
    range: Range | None = None
    warns: bool = True

    def check(self, file: BufferedIOBase) -> int:
        """The number of pixels of an image, by its header.

        Raises:
          UnusableError: it is not an image, too small or too large.
        """
        with self._open(file) as image:
            if self.range is None and image.mode in ("F", "I"):  # only the numbers of I tell whether they can be used
                with damage_as_unusable():
                    image.load()
                    _eight_bits(image)
            return image.width * image.height

    def decode(self, file: BufferedIOBase) -> np.ndarray:
        """The image as uint8 [size, size, channels].

        Raises:
          UnusableError: it is not an image, too small, too large, or damaged.
        """
        image = self.upright(file)
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        with damage_as_unusable():
            image = image.crop((left, top, left + side, top + side))  # first: the filter looks beyond a box
        image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(image).reshape(self.size, self.size, self.channels)

    def upright(self, file: BufferedIOBase) -> Image.Image:
        """The complete image in gray ("L") or colour ("RGB"), at its own size, in sRGB.

        Its `info` holds the profile and the note of `color_profiles.in_srgb`, as `icc_profile` and `profile_note`.

        Raises:
          UnusableError: as `decode`.
        """
        with self._open(file) as image, damage_as_unusable():
            if self.range is not None and deep_pictures.is_deep(image):
                numbers = deep_pictures.read_numbers(image, lambda: self._open(file))
                upright = deep_pictures.as_image(numbers, self.range)
            else:
                image.load()
                with contextlib.suppress(Exception):  # damaged metadata turns nothing
                    ImageOps.exif_transpose(image, in_place=True)
                upright = _eight_bits(image)
            carried = image.info.get("icc_profile") if image.mode != "LAB" else None
            upright, profile, note = in_srgb(upright, carried)
            if note and not profile and self.warns:
                _warn_once(note)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            upright = upright.convert("RGB" if self.channels == 3 else "L")
            upright.info = {"icc_profile": profile, "profile_note": note}
            return upright

    def _open(self, file: BufferedIOBase) -> Image.Image:
        with damage_as_unusable():
            image = read_header(file)
        width, height = image.size
        if width * height > self.max_pixels:
            raise UnusableError(f"{height}x{width} are more than max_pixels={self.max_pixels:,} pixels", "max_pixels")
        if min(width, height) < self.size:
            raise UnusableError(f"{height}x{width} is smaller than size={self.size}", "size")
        return image


def has_transparent_pixels(file: BufferedIOBase) -> bool:
    """Whether an image, whose size was checked, has pixels that are not opaque.

    Raises:
      UnusableError: it is not an image, or damaged.
    """
    with damage_as_unusable(), read_header(file) as image:
        return image.has_transparency_data and bool(np.asarray(image.convert("RGBA"))[..., 3].min() < 255)


def read_header(file: BufferedIOBase) -> Image.Image:
    """The image of one of `FORMATS`, with only its header read.

    `Image.open` would hold it to Pillow's limit for the process, by warnings that the caller's filters decide about;
    our callers compare the size with their own limit before they decode.
    """
    file.seek(0)
    prefix = file.read(16)
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        if accept is None or accept(prefix) is True:  # a string says what this Pillow lacks
            file.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # it is of another format
                return factory(cast(IO[bytes], file), "")
    raise UnusableError("not an image" if prefix else "an empty file")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image itself; where its pixels are 16-bit integers, they are scaled to 8 bits and rounded."""
    if image.mode == "LAB":
        return deep_pictures.lab_to_rgb(image)
    if image.mode == "F":
        raise UnusableError("its pixels are floating-point numbers: state the values of black and white", "range")
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image).astype(np.int64)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 0xFFFF:
        found = f"its pixels are integers from {low} to {high}, of more than 16 bits"
        raise UnusableError(f"{found}: state the values of black and white", "range")
    if 0xFF < high < 2**14:
        bits = high.bit_length()
        _warn_once(f"a picture of 16 bits has values of {bits} alone: white is 65535 unless config.data.range says it")
    return Image.fromarray(np.round(pixels / 257).astype(np.uint8))


class ImageFiles(NamedTuple):
    """Where image files come from: names in a fixed order, their classes, and how one of them is opened.

    `open` is picklable, so that worker processes can use it, and may be called by several threads.
    """

    names: Sequence[str]
    labels: np.ndarray
    open: Callable[[str], BufferedIOBase]


@dataclass(frozen=True, kw_only=True)
class LazyImages:
    """Image files as images [n, size, size, channels], decoded when they are indexed: `containers.ByteImages`.

    A file whose header was fine but whose pixels are damaged is named in one warning, and the next one replaces it.

    Attributes:
      names: one for each file.
      open: opens a file by its name.
      preprocessor: how each becomes an array.
      kept: whether decoded images stay in memory, as uint8.
    """

    names: Sequence[str]
    open: Callable[[str], BufferedIOBase]
    preprocessor: ImagePreprocessor
    kept: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, size, size, channels)."""
        size = self.preprocessor.size
        return (len(self.names), size, size, self.preprocessor.channels)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Index) -> np.ndarray:
        return to_float(self.read_bytes(index))

    def read_bytes(self, index: Index) -> np.ndarray:
        """As `ByteImages.read_bytes`."""
        chosen = np.arange(len(self))[index]
        if not self.kept:
            fresh = np.empty((len(chosen), *self.shape[1:]), np.uint8)
            for row, i in enumerate(chosen.tolist()):
                fresh[row] = self._read(i, self.preprocessor.decode)
            return fresh
        pixels, known = self._memory
        for i in chosen[~known[chosen]].tolist():
            pixels[i] = self._read(i, self.preprocessor.decode)
        known[chosen] = True
        return pixels[chosen]

    def take(self, index: np.ndarray) -> "LazyImages":
        """Some of the images; this reads none of them."""
        return replace(self, names=[self.names[i] for i in index])

    @functools.cached_property
    def _memory(self) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(self.shape, np.uint8), np.zeros(len(self), bool)

    def _read(self, index: int, read: Callable[[BufferedIOBase], Read]) -> Read:
        """What `read` makes of a file or, if that is damaged, of the next one that is not."""
        for i in (*range(index, len(self)), *range(index)):
            try:
                with self.open(self.names[i]) as file:
                    return read(file)
            except (UnusableError, OSError) as error:
                _warn_once(f"{self.names[i]!r}: {error}; another image stands in for it")
        raise InputError(f"none of {len(self)} images can be decoded")


@functools.cache
def _warn_once(line: str) -> None:
    logging.warning("%s", line)


class Fault(NamedTuple):
    """Why a file cannot be used, and the field of `ImagePreprocessor` that excludes it, "" where none does."""

    reason: str
    parameter: str = ""


def inspect(files: ImageFiles, preprocessor: ImagePreprocessor, decode: bool = False) -> list[int | Fault]:
    """For each file its number of pixels, or why it cannot be used: by its header or, with `decode`, by all of it."""

    def inspect_one(name: str) -> int | Fault:
        try:
            with files.open(name) as file:
                pixels = preprocessor.check(file)
            if decode:
                with files.open(name) as file:
                    preprocessor.decode(file)
        except UnusableError as error:
            return Fault(str(error), error.parameter)
        except OSError as error:
            return Fault(error.strerror or str(error))
        return pixels

    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        return list(threads.map(inspect_one, files.names))
