"""Picture files as images: which can be used, and how each becomes a square of bytes."""

import concurrent.futures
import contextlib
import functools
import os
import pathlib
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import IO, NamedTuple, cast

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from fmdp.data.containers import Index, to_float
from fmdp.errors import InputError, reason

_KINDS = Image.registered_extensions()
# No format that starts another program, and only what this Pillow was built with.
FORMATS = tuple(kind for kind in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") if kind in Image.OPEN)
SUFFIXES = {suffix for suffix, kind in _KINDS.items() if kind in FORMATS}
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**31  # above it Pillow warns
MAX_NAMED = 10  # of the pictures left out are named, the rest counted
# Too many pixels are left out, with a line that says so; of damaged metadata, which is not used, nobody needs to know.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class UnusableError(Exception):
    """A picture that cannot be used; the message says why."""


def open_file(path: pathlib.Path) -> BufferedIOBase:
    """A file opened for reading.

    Raises:
      UnusableError: it is a pipe, a device or another thing that could keep its reader waiting.
      OSError: it cannot be opened.
    """
    if stat.S_ISREG(path.stat().st_mode):
        # Should a pipe have taken its place meanwhile, it is opened without waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    raise UnusableError("neither a file nor a link to one")


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessor:
    """What a picture is made into: the square in its middle, resized by Pillow's antialiased Lanczos filter.

    It is turned upright as its EXIF data says, transparent parts become white, and pixels of 16 bits are scaled down.

    Attributes:
      size: pixels a side; a picture smaller than that is not used.
      channels: 3 for colour, 1 for gray (ITU-R 601 luma).
      max_pixels: a picture of more is not used.
      keys: where size and max_pixels are set, for messages.
    """

    size: int
    channels: int
    max_pixels: int
    keys: str = "config.data."

    def check(self, file: BufferedIOBase) -> None:
        """Look at the header of a picture.

        Raises:
          UnusableError: it is none, too small or too large.
        """
        self._open(file).close()

    def decode(self, file: BufferedIOBase) -> np.ndarray:
        """The picture as bytes [size, size, channels].

        Raises:
          UnusableError: it is none, too small, too large, or damaged.
        """
        image = self.upright(file)
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        image = image.crop((left, top, left + side, top + side))  # first: the filter looks beyond a box
        image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        return np.asarray(image).reshape(self.size, self.size, self.channels)

    def upright(self, file: BufferedIOBase) -> Image.Image:
        """The whole picture in gray ("L") or colour ("RGB"), of its own size.

        Raises:
          UnusableError: as `decode`.
        """
        with self._open(file) as image:
            try:
                image.load()
                with contextlib.suppress(Exception):  # damaged metadata turns nothing
                    ImageOps.exif_transpose(image, in_place=True)
                image = _eight_bits(image)
                if image.has_transparency_data:
                    white = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(white, image.convert("RGBA"))
                return image.convert("RGB" if self.channels == 3 else "L")
            except UnusableError:
                raise
            except Exception as error:  # Pillow raises many kinds for a damaged file
                raise UnusableError(f"damaged: {reason(error)}") from error

    def _open(self, file: BufferedIOBase) -> Image.Image:
        try:
            if not file.read(1):
                raise UnusableError("an empty file")
            file.seek(0)
            image: Image.Image = Image.open(cast(IO[bytes], file), formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise UnusableError(f"more than {self.keys}max_pixels = {self.max_pixels:,} pixels") from error
        except UnusableError:
            raise
        except Exception as error:  # as above
            raise UnusableError("not a picture") from error
        width, height = image.size
        if width * height > self.max_pixels:
            raise UnusableError(f"{width}x{height} are more than {self.keys}max_pixels = {self.max_pixels:,} pixels")
        if min(width, height) < self.size:
            raise UnusableError(f"{width}x{height} is smaller than {self.keys}size = {self.size}")
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture itself or, of one with integers of 16 bits for pixels, its upper halves, rounded."""
    if image.mode == "F":
        raise UnusableError("its pixels are floating-point numbers")
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise UnusableError("its pixels are integers of more than 16 bits")
    return Image.fromarray(np.round(pixels / 257).astype(np.uint8))


class ImageFiles(NamedTuple):
    """Where pictures come from: names in a fixed order, their classes, and how one of them is opened.

    `open` is picklable, so that worker processes can use it, and may be called by several threads.
    """

    names: Sequence[str]
    labels: np.ndarray
    open: Callable[[str], BufferedIOBase]


@dataclass(frozen=True, kw_only=True)
class LazyImages:
    """Pictures as float32 images [n, size, size, channels] in [-1, 1], decoded when they are asked for.

    One whose header was fine but that turns out to be damaged is named in one line, and the next one stands in for it.

    Attributes:
      names: one for each picture.
      open: opens a picture by its name.
      frame: what they are made into.
      kept: remember what was decoded, as bytes.
    """

    names: Sequence[str]
    open: Callable[[str], BufferedIOBase]
    frame: ImagePreprocessor
    kept: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, size, size, channels)."""
        return (len(self.names), self.frame.size, self.frame.size, self.frame.channels)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Index) -> np.ndarray:
        chosen = np.arange(len(self))[index]
        if not self.kept:
            fresh = np.empty((len(chosen), *self.shape[1:]), np.uint8)
            for row, i in enumerate(chosen.tolist()):
                fresh[row] = self._decode(i)
            return to_float(fresh)
        pixels, known = self._memory
        for i in chosen[~known[chosen]].tolist():
            pixels[i] = self._decode(i)
        known[chosen] = True
        return to_float(pixels[chosen])

    def take(self, index: np.ndarray) -> "LazyImages":
        """Some of the pictures, none of them read by this."""
        return replace(self, names=[self.names[i] for i in index])

    @functools.cached_property
    def _memory(self) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(self.shape, np.uint8), np.zeros(len(self), bool)

    def _decode(self, index: int) -> np.ndarray:
        for i in (*range(index, len(self)), *range(index)):
            try:
                with self.open(self.names[i]) as file:
                    return self.frame.decode(file)
            except (UnusableError, OSError) as error:
                _tell(f"{self.names[i]!r}: {error}; another picture stands in for it")
        raise InputError(f"none of {len(self)} pictures can be decoded")


@functools.cache
def _tell(line: str) -> None:
    """Log a line, once."""
    logging.warning("%s", line)


def inspect_files(
    files: ImageFiles, frame: ImagePreprocessor, where: str, strict: bool = False
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which pictures have a header that says they can be used, and one line for each of the others.

    Args:
      files, frame: the pictures, and what they shall become.
      where: what to call the place where they are.
      strict: look at all of each picture, and refuse them all for one that cannot be used.

    Raises:
      InputError: none can be used or, where `strict`, one cannot.
    """

    def fault(name):
        try:
            with files.open(name) as file:
                (frame.decode if strict else frame.check)(file)
        except (UnusableError, OSError) as error:
            return f"{name!r}: {error.strerror or error if isinstance(error, OSError) else error}"
        return None

    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        faults = list(threads.map(fault, files.names))
    left_out = tuple(line for line in faults if line is not None)
    if strict and left_out:
        raise InputError(f"{where}: {left_out[0]}; remove it, or set config.data.strict to False")
    if len(left_out) == len(faults):
        first = f" ({left_out[0]})" if left_out else ""
        raise InputError(f"{where} holds no picture that can be used{first}: files of {', '.join(FORMATS)} are")
    if left_out:
        more = f"; and {len(left_out) - MAX_NAMED} more" if len(left_out) > MAX_NAMED else ""
        logging.warning("%s: %d of %d pictures left out: %s", where, len(left_out), len(faults),
                        "; ".join(left_out[:MAX_NAMED]) + more)  # fmt: skip
    return np.flatnonzero([line is None for line in faults]), left_out
