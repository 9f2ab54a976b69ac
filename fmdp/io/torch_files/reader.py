"""Checkpoint files of all common formats as named arrays."""

import io
import os
import pathlib
import struct
from functools import partial
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from fmdp.errors import InputError, translating
from fmdp.io import archives
from fmdp.io.torch_files import safe_pickle
from fmdp.io.torch_files.safe_pickle import as_text
from fmdp.io.torch_files.tensors import DTYPES, named_arrays

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of torch.save from before it wrote zips
FAULTS = (
    ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError, RecursionError, MemoryError,
    struct.error, NotImplementedError, SafetensorError,
)  # fmt: skip


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a checkpoint file, without executing anything in it.

    Supported are files of torch.save (zips and the older streams), pickles of modules with their source text (as EDM
    writes them), .safetensors, and .npz of named arrays; the first bytes decide which it is. If a checkpoint holds
    several networks, the averaged one is taken. bfloat16 arrays have the type ml_dtypes.bfloat16.

    Raises:
      InputError: the file does not exist, has another format, is damaged, or refers to something that does not belong
        in a checkpoint, which the message names.
    """
    path = pathlib.Path(path)
    with translating(lambda why: f"{path} cannot be read: {why}", OSError):
        content = path.read_bytes()
    with (
        translating(lambda why: f"{path}: {why}", InputError),
        translating(lambda why: f"it is damaged, or not a checkpoint ({why}): download it again", *FAULTS),
    ):
        return _arrays(content)


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    if content.startswith(b"PK"):
        return _zip(content)
    if content[:1] == b"\x80":
        return _pickle(content)
    if content[8:9] == b"{":
        return load_safetensors(content)
    raise InputError("it is neither a pickle, nor a zip of torch or NumPy, nor safetensors: name a checkpoint")


def _zip(content: bytes) -> dict[str, np.ndarray]:
    with archives.open_zip(io.BytesIO(content)) as file:
        members = file.namelist()
        read = partial(archives.read_member, file)
        pickled = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if not pickled:
            return archives.load_npz(io.BytesIO(content))
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in members and read(f"{root}byteorder") == b"big":
            raise InputError("it was saved on a big-endian machine, which is not supported")
        tree = safe_pickle.read_pickle(io.BytesIO(read(pickled[0])), [])
        return named_arrays(tree, lambda key: read(f"{root}data/{key}"), _typed)


def _pickle(content: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(content)
    first = safe_pickle.read_pickle(stream, [])
    tree, storages = _stream(stream) if first == MAGIC else (first, {})
    return named_arrays(tree, storages.__getitem__, _typed)


def _stream(stream: io.BytesIO) -> tuple[Any, dict[str, bytes]]:
    """A file of torch.save from before it wrote zips, after its magic number: the tree, and its storages by key."""
    safe_pickle.read_pickle(stream)  # the version
    system = safe_pickle.read_pickle(stream)
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise InputError("it was saved on a big-endian machine, which is not supported")
    ids: list[Any] = []
    tree = safe_pickle.read_pickle(stream, ids)
    sizes = {}
    for saved in ids:
        dtype = np.dtype(DTYPES[saved[1].name.rpartition(".")[2].removesuffix("Storage")])
        sizes[as_text(saved[2])] = dtype.itemsize
    storages = {}
    for key in safe_pickle.read_pickle(stream):
        (count,) = struct.unpack("<q", stream.read(8))
        storages[as_text(key)] = stream.read(
            max(count, 0) * sizes[as_text(key)]
        )  # of fewer bytes where the file ends early
    return tree, storages


def _typed(content: bytes) -> tuple[Any, bytes]:
    """Element type and bytes of a storage that was saved on its own inside a pickle."""
    stream = io.BytesIO(content)
    if safe_pickle.read_pickle(stream) != MAGIC:
        raise ValueError("a storage inside a pickle that torch.save did not write")
    storage, storages = _stream(stream)
    _, typed, key, *_ = storage.arguments[0]
    dtype = np.dtype(DTYPES[typed.name.rpartition(".")[2].removesuffix("Storage")])
    return dtype, storages[as_text(key)]
