"""Zips, npz, npy and gzip files from untrusted sources; those that unpack out of all proportion are refused."""

import gzip
import io
import math
import pathlib
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from fmdp.errors import InputError, translating

MAX_EXPANSION = 200  # the largest allowed ratio of unpacked to packed bytes
ALWAYS_ALLOWED = 2**23  # bytes that may be unpacked whatever the ratio
MAX_PIXELS = 2**30 // 12  # of an image that is read or restored: 256 MiB in colour at 8 bits


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether this many bytes from so few are likely to be a decompression bomb."""
    return unpacked > max(ALWAYS_ALLOWED, MAX_EXPANSION * packed)


def open_zip(file: pathlib.Path | io.BytesIO) -> zipfile.ZipFile:
    """An open zip that is no decompression bomb.

    Raises:
      InputError: it cannot be opened, or is a decompression bomb.
    """
    # zipfile raises errors of many kinds for a damaged file.
    with translating(lambda why: f"it cannot be opened as a zip ({why})", Exception):
        archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if is_bomb(sum(m.file_size for m in members), sum(m.compress_size for m in members)):
        raise InputError(f"it unpacks to more than {MAX_EXPANSION} times its size")
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The unpacked content of one member of a zip.

    Raises:
      InputError: it is missing, damaged, encrypted, or compressed by an unsupported method.
    """
    # zipfile and the decompressors raise errors of many kinds, among them RuntimeError for an encrypted member.
    with translating(lambda why: f"its member {name[:100]!r} cannot be read ({why})", Exception):
        return archive.read(name)


def load_npz(
    file: pathlib.Path | io.BytesIO, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The arrays of an npz file whose names are wanted. Arrays of objects, which would be pickles, are refused.

    Raises:
      InputError: it cannot be read, is not an npz file, is damaged, or is a decompression bomb.
    """
    open_zip(file).close()
    if not isinstance(file, pathlib.Path):
        file.seek(0)
    # NumPy and zipfile raise errors of many kinds for a damaged file.
    with (
        translating(lambda why: f"it is not an npz file of plain arrays ({why})", Exception),
        np.load(file, allow_pickle=False) as arrays,
    ):
        return {name: arrays[name] for name in arrays.files if wanted(name)}


def load_npy(file: BinaryIO, max_values: int | None = None) -> np.ndarray:
    """The array of an .npy file, from its beginning. Arrays of objects, which would be pickles, are refused.

    Raises:
      InputError: it is not such a file, is damaged, or holds more values than that.
    """
    # NumPy raises errors of many kinds for a damaged file.
    with translating(lambda why: f"it is not an .npy file of plain numbers ({why})", Exception):
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise InputError("it holds Python objects: save an array of numbers")
        if max_values is not None and math.prod(shape) > max_values:
            raise InputError(f"its shape {shape} has more than {max_values:,} values")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def gunzip(file: pathlib.Path | io.BytesIO) -> bytes:
    """The unpacked content of a .gz file. No more is unpacked than a file that is no decompression bomb can hold.

    Raises:
      InputError: it is a decompression bomb.
      OSError, EOFError, zlib.error: it cannot be read, or is damaged.
    """
    packed = file.stat().st_size if isinstance(file, pathlib.Path) else len(file.getbuffer())
    with gzip.open(file) as unpacked:
        content = unpacked.read(max(ALWAYS_ALLOWED, MAX_EXPANSION * packed) + 1)
    if is_bomb(len(content), packed):
        name = file if isinstance(file, pathlib.Path) else "it"
        raise InputError(f"{name} unpacks to more than {MAX_EXPANSION} times its size: download it again")
    return content
