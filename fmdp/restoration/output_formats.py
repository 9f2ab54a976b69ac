"""How restored images are written: 8 bits, 16 bits, or floating-point numbers."""

import pathlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8


class OutputFormat(NamedTuple):
    """Its name, the ending of its files, whether their numbers are those of fmdp, and how an image is written."""

    name: str
    suffix: str
    exact: bool
    write: Callable[[pathlib.Path, np.ndarray, bytes | None], None]

    def save(self, path: pathlib.Path, image: np.ndarray, profile: bytes | None = None) -> None:
        """Write an image [H, W, 1 or 3] in [-1, 1], or all of it or nothing.

        Args:
          profile: of sRGB. A PNG in colour holds it; one in gray has a chunk that says so.
        """
        with atomic_write(path) as temporary:
            self.write(temporary, image, profile)


def _write_png(path: pathlib.Path, image: np.ndarray, profile: bytes | None) -> None:
    picture, chunks = Image.fromarray(to_uint8(image)), PngInfo()
    if profile and picture.mode == "L":
        chunks.add(b"sRGB", b"\0")
        profile = None
    picture.save(path, pnginfo=chunks, icc_profile=profile)


def _write_png16(path: pathlib.Path, image: np.ndarray, profile: bytes | None) -> None:
    levels = np.round((image.astype(np.float64) + 1) * (0xFFFF / 2))
    path.write_bytes(encode_png16(np.clip(levels, 0, 0xFFFF).astype(np.uint16), profile))


def _write_npy(path: pathlib.Path, image: np.ndarray, profile: bytes | None) -> None:
    np.save(path, image.astype(np.float32))


def encode_png16(pixels: np.ndarray, profile: bytes | None = None) -> bytes:
    """A PNG of 16 bits from [H, W, 1 or 3], uint16, in sRGB if it has its profile; Pillow writes none in colour.

    PNG specification (third edition), section 11: each row begins with its filter, which is none.
    """
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    colours = (b"sRGB", b"\0") if channels == 1 else (b"iCCP", b"sRGB\0\0" + zlib.compress(profile or b""))
    said = [colours] if profile else []
    chunks = ((b"IHDR", header), *said, (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG = OutputFormat("png", ".png", False, _write_png)
OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    form.name: form
    for form in (
        PNG,
        OutputFormat("png16", ".png", False, _write_png16),
        OutputFormat("npy", ".npy", True, _write_npy),
    )
}
"""By name."""
