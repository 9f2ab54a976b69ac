"""Zips and npz files of strangers, refused before they unpack to what is out of proportion to their size."""

import gzip
import io
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from fmdp.errors import InputError, reason

MAX_EXPANSION = 200  # times its own size that something may unpack to
ALWAYS_ALLOWED = 2**23  # bytes that are never too many


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether so many bytes out of so few are made to fill the memory, and not packed to save room."""
    return unpacked > max(ALWAYS_ALLOWED, MAX_EXPANSION * packed)


def check_expansion(members: list[zipfile.ZipInfo]) -> None:
    """Raises InputError where the members of a zip together are out of proportion."""
    if is_bomb(*(sum(getattr(m, size) for m in members) for size in ("file_size", "compress_size"))):
        raise InputError(f"a zip that unpacks to more than {MAX_EXPANSION} times its size")


def open_zip(file: pathlib.Path | io.BytesIO) -> zipfile.ZipFile:
    """A zip whose members are in proportion.

    Raises:
      InputError: it cannot be opened, or is out of proportion.
    """
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # zipfile raises many kinds for a damaged file
        raise InputError(f"a zip that cannot be opened ({reason(error)})") from error
    check_expansion(archive.infolist())
    return archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """What one member of a zip unpacks to.

    Raises:
      InputError: it is missing, damaged, encrypted, or packed in a way that is not read.
    """
    try:
        return archive.read(name)
    except Exception as error:  # zipfile and the decompressors raise many kinds, RuntimeError for what is encrypted
        raise InputError(f"a zip whose member {name[:100]!r} cannot be read ({reason(error)})") from error


def load_npz(
    file: pathlib.Path | io.BytesIO, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The arrays of an npz file whose names are wanted; objects, which would be pickles, are none.

    Raises:
      InputError: it cannot be read, is none, is damaged, or out of proportion.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            check_expansion(archive.infolist())
        if not isinstance(file, pathlib.Path):
            file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if wanted(name)}
    except InputError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
        raise InputError(f"not an npz file of plain arrays ({reason(error)})") from error


def gunzip(path: pathlib.Path) -> bytes:
    """What a .gz unpacks to.

    Raises:
      InputError: it is out of proportion.
      OSError, EOFError, zlib.error: it cannot be read, or is damaged.
    """
    packed = path.stat().st_size
    with gzip.open(path) as file:
        content = file.read(max(ALWAYS_ALLOWED, MAX_EXPANSION * packed) + 1)
    if is_bomb(len(content), packed):
        raise InputError(f"{path} unpacks to more than {MAX_EXPANSION} times its size: get it anew")
    return content
