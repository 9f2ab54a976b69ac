"""Atomic writing, so that no reader ever meets half a file, and careful reading of files from elsewhere."""

import contextlib
import errno
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from fmdp.errors import InputError, translating

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|(file|gs|https?|s3):/", re.IGNORECASE)  # pathlib makes one slash of two
WINDOWS_PATH = re.compile(r"[a-z]:[\\/]|\\\\", re.IGNORECASE)
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""The errors of a full disk and of an exhausted quota, which not every system has."""


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, by_all: bool = False) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` that replaces it when the block succeeds and is removed when the block fails.

    All processes of a run call this, but only the first leaves its file, unless `by_all` says that each host needs one
    of its own.
    """
    first = by_all or jax.process_index() == 0
    folder = path.parent if first else pathlib.Path(tempfile.gettempdir())
    temporary = folder / f".{path.stem}.{os.getpid()}{path.suffix}"
    try:
        yield temporary
        if first:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      InputError: the file cannot be read, or holds something else.
    """
    remedy = "download it again, or remove it"
    with translating(lambda why: f"{path} is damaged ({why}): {remedy}", OSError, ValueError, RecursionError):
        value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged (it holds no object with keys): {remedy}")
    return value


def expand_path(text: Any) -> pathlib.Path:
    """The path that a user named, as text or as a path, with ~ expanded.

    Raises:
      InputError: it is something else, no file can have this name, or it is an address (gs://, https://) or a path of
        another system.
    """
    named = os.fspath(text) if isinstance(text, str | os.PathLike) else None
    if not isinstance(named, str):
        raise InputError(f"{repr(text)[:100]} is no path: give the name of a file or folder as text")
    if ADDRESS.match(named):
        remedy = "only files on this machine are read and written: copy it here, and name its path"
        raise InputError(f"{named[:100]!r} is an address, and {remedy}")
    message = "{!r} cannot be a file ({}): name another"
    with translating(lambda why: message.format(str(text)[:100], why), OSError, RuntimeError, ValueError):
        path = pathlib.Path(text).expanduser()
        exists = path.exists()
    if os.name != "nt" and not exists and WINDOWS_PATH.match(named):
        raise InputError(f"{named[:100]!r} is a path of Windows, and this is another system: name the file's path here")
    return path


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, raised by whatever library, means that the disk is full or a quota is exhausted."""
    return any(os.strerror(number) in str(error) for number in FULL)
