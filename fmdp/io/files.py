"""Atomic writing, so that no reader ever meets half a file, and careful reading of files from elsewhere."""

import contextlib
import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from fmdp.errors import InputError, translating

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


def expand_path(text: str | os.PathLike) -> pathlib.Path:
    """The path that a user named, with ~ expanded.

    Raises:
      InputError: no file can have this name.
    """
    message = "{!r} cannot be a file ({}): name another"
    with translating(lambda why: message.format(str(text)[:100], why), OSError, RuntimeError, ValueError):
        path = pathlib.Path(text).expanduser()
        path.exists()
    return path


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, raised by whatever library, means that the disk is full or a quota is exhausted."""
    return any(os.strerror(number) in str(error) for number in FULL)
