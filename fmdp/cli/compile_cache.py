"""Compiled programs are kept on disk for the next start, in one folder of limited size."""

import contextlib
import os
import pathlib

import jax

from fmdp.errors import InputError

MAX_BYTES = 4 * 10**9  # unless the environment says otherwise
DIRECTORY, SIZE = "jax_compilation_cache_dir", "jax_compilation_cache_max_size"
MIN_SECONDS = "jax_persistent_cache_min_compile_time_secs"
SUFFIX = "-cache"  # of JAX's files


def use_compile_cache() -> None:
    """Keep compiled programs in ~/.cache/fmdp/jax, after removing what exceeds the limit.

    JAX's variables change that: JAX_COMPILATION_CACHE_DIR is the folder, JAX_COMPILATION_CACHE_MAX_SIZE the limit in
    bytes (-1 for none, 0 for no cache). JAX does not enforce it: it would need another package, read the whole folder
    for every program that it writes, and fail on programs that were written without a limit.

    Raises:
      InputError: the limit is not possible.
    """
    folder = os.environ.get(DIRECTORY.upper(), str(pathlib.Path.home() / ".cache" / "fmdp" / "jax"))
    limit = getattr(jax.config, SIZE) if SIZE.upper() in os.environ else MAX_BYTES
    if limit < -1:
        raise InputError(f"{SIZE.upper()}={limit}: give the size in bytes, 0 for no cache, or -1 for no limit")
    jax.config.update(SIZE, -1)
    jax.config.update(DIRECTORY, folder if limit else None)
    if MIN_SECONDS.upper() not in os.environ:  # many small programs take as long as a large one
        jax.config.update(MIN_SECONDS, 0.0)
    if limit > 0 and folder and "://" not in folder:  # JAX also writes to buckets, which have rules of their own
        trim(pathlib.Path(folder), limit)


def trim(folder: pathlib.Path, limit: int) -> None:
    """Remove the compiled programs that were used least recently, until the others have at most `limit` bytes.

    Other files stay. Several processes may do so at once, or read: JAX compiles what it does not find.
    """
    files = []
    with contextlib.suppress(OSError):  # the folder does not exist yet, or is not ours
        for path in folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                found = path.stat()
                files.append((max(found.st_atime_ns, found.st_mtime_ns), found.st_size, path))
        excess = sum(size for _, size, _ in files) - limit
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
