"""The folder of a run: its lock and its summary."""

import contextlib
import errno
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from absl import logging

try:
    import fcntl
except ImportError:  # on Windows, where a run is not locked
    fcntl = None  # type: ignore[assignment]

from fmdp.errors import InputError, translating
from fmdp.io.files import expand_path, read_json, write_json

UNLOCKABLE = (errno.ENOLCK, getattr(errno, "ENOTSUP", errno.ENOSYS), errno.ENOSYS)
"""The errors of file systems that have no locks."""


@dataclass(frozen=True)
class RunDir:
    """The folder at `path`, which exists; `run / "name"` is the path of a file in it."""

    path: pathlib.Path

    @classmethod
    def open(cls, name: str) -> "RunDir":
        """The folder that --workdir names, made where it does not exist.

        Raises:
          InputError: it is a file, or cannot be written to.
        """
        path = expand_path(name).absolute()
        with translating(
            lambda why: f"--workdir={name} is not a folder that can be written to ({why}): name another", OSError
        ):
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()
        return cls(path)

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @contextlib.contextmanager
    def lock(self) -> Iterator["RunDir"]:
        """Reserve the folder for this process while the block runs. The system frees it however the process ends.

        The first of several processes holds it for all of them. A file system without locks causes a warning only.

        Raises:
          InputError: another run holds it; names that run's process and host.
        """
        if jax.process_index() > 0:
            yield self
            return
        with (self / "lock").open("a+") as lock:
            try:
                if fcntl is None:
                    raise OSError(errno.ENOSYS, "this system has no such locks")
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = lock.read(200).strip() or "another process"
                remedy = "wait until it ends, or name another --workdir"
                raise InputError(f"{self.path} is in use by {holder}: {remedy}") from error
            except OSError as error:
                if error.errno not in UNLOCKABLE:
                    raise
                logging.warning("%s cannot be locked (%s): start no second run in it", self.path, error.strerror)
            lock.seek(0)
            lock.truncate()
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            yield self

    def read_summary(self) -> dict[str, Any] | None:
        """The JSON object in summary.json; None where there is no such file.

        Raises:
          InputError: the file cannot be read, or holds something else.
        """
        path = self / "summary.json"
        return read_json(path) if path.exists() else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json atomically."""
        write_json(self / "summary.json", summary)
