"""Writing a run's files so that a reader never meets half of one; reading those that may be of strangers."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging

from fmdp.errors import InputError, reason

LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what file systems say that cannot lock


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, by_all: bool = False) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` that takes its place when the block succeeds and vanishes when it fails.

    Of several processes, which all come by here, only the first leaves its file, unless `by_all` says that each host
    needs one of its own.
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
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      InputError: it cannot be read, or is none.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else reason(error)
        raise InputError(f"{path} is damaged ({said}): get it anew, or remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged (it holds no object with keys): get it anew, or remove it")
    return value


def expand_path(text: str | os.PathLike) -> pathlib.Path:
    """The path that somebody named, ~ being their home.

    Raises:
      InputError: no file can have this name.
    """
    try:
        path = pathlib.Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(text)[:100]!r} can be no file ({said}): name another") from error
    return path


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that the disk is full or a quota used up."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Keep a workdir for this run, as long as the block lasts; the system frees it when the process dies, however.

    Of several processes the first holds it for all of them. Where the file system cannot lock, a warning says so.

    Raises:
      InputError: another run holds it; named by process and host.
    """
    if jax.process_index() > 0:
        yield
        return
    with (workdir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read(200).strip() or "another process"
            raise InputError(
                f"{workdir} is in use by {holder}: wait until it ends, or name another --workdir"
            ) from error
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            logging.warning("%s cannot be locked (%s): start no second run in it", workdir, error.strerror)
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def open_workdir(path: str) -> pathlib.Path:
    """The folder of a run, made where it does not exist.

    Raises:
      InputError: it is a file, or cannot be written to.
    """
    workdir = expand_path(path).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir={path} is a file: name a folder, or one that does not exist yet")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise InputError(f"--workdir={path} cannot be written to ({error.strerror}): name another folder") from error
    return workdir
