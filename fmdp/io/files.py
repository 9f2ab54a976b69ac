"""Writing the files of a run so that nobody reads an incomplete one; reading files from untrusted sources."""

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

from fmdp.errors import InputError, translating

LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # the errors of file systems without locks


@contextlib.contextmanager
def atomic_write(path: pathlib.Path, by_all: bool = False) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, which is renamed to it when the block succeeds and removed when it fails.

    All processes of a run enter the block, but only the first one keeps its file, unless `by_all` is set because every
    host needs a file of its own.
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
    """Write a JSON file, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      InputError: it cannot be read, or does not hold a JSON object.
    """
    remedy = "download it again, or remove it"
    with translating(lambda why: f"{path} is damaged ({why}): {remedy}", OSError, ValueError, RecursionError):
        value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged (it holds no object with keys): {remedy}")
    return value


def expand_path(text: str | os.PathLike) -> pathlib.Path:
    """The path that a user named, with ~ as their home.

    Raises:
      InputError: no file can have this name.
    """
    message = "{!r} cannot be a file ({}): name another"
    with translating(lambda why: message.format(str(text)[:100], why), OSError, RuntimeError, ValueError):
        path = pathlib.Path(text).expanduser()
        path.exists()
    return path


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of any library reports a full disk or an exhausted quota."""
    return any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Lock a workdir for this run within the block; the system releases the lock however the process ends.

    The first of several processes holds the lock for all of them. A file system without locks causes a warning.

    Raises:
      InputError: another run holds the lock; the message names its process and host.
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
            remedy = "wait until it ends, or name another --workdir"
            raise InputError(f"{workdir} is in use by {holder}: {remedy}") from error
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise
            logging.warning("%s cannot be locked (%s): do not start a second run in it", workdir, error.strerror)
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        yield


def open_workdir(path: str) -> pathlib.Path:
    """The folder of a run, created if it does not exist.

    Raises:
      InputError: it is a file, or not writable.
    """
    workdir = expand_path(path).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir={path} is a file: name a folder, or one that does not exist yet")
    with translating(lambda why: f"--workdir={path} cannot be written to ({why}): name another folder", OSError):
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    return workdir
