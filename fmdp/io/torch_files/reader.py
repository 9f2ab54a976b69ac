"""Checkpoint files of every usual kind as named arrays."""

import io
import os
import pathlib
import struct
from functools import partial
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from fmdp.errors import InputError, reason
from fmdp.io import archives
from fmdp.io.torch_files import safe_pickle
from fmdp.io.torch_files.tensors import DTYPES, named_arrays

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of what torch.save wrote before it wrote zips
FAULTS = (
    ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError, RecursionError, MemoryError,
    struct.error, NotImplementedError, SafetensorError,
)  # fmt: skip


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a checkpoint file, without executing anything in it.

    Files of torch.save (zips and the older streams), pickles with modules whose source text lies beside them (as EDM
    writes them), .safetensors, and .npz of named arrays; which one it is, the first bytes tell. Of a checkpoint with
    several networks the averaged one is taken. bfloat16 comes as ml_dtypes.bfloat16.

    Raises:
      InputError: there is no such file, it is none of these, is damaged, or asks for something that is no part of a
        checkpoint, which is named.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _arrays(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except FAULTS as error:
        raise InputError(f"{path} is damaged, or no checkpoint ({reason(error)}): get it anew") from error


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    if content.startswith(b"PK"):
        return _zip(content)
    if content[:1] == b"\x80":
        return _pickle(content)
    if content[8:9] == b"{":
        return load_safetensors(content)
    raise InputError("neither a pickle, nor a zip of torch or NumPy, nor safetensors: name a checkpoint")


def _zip(content: bytes) -> dict[str, np.ndarray]:
    with archives.open_zip(io.BytesIO(content)) as file:
        members = file.namelist()
        read = partial(archives.read_member, file)
        pickled = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if not pickled:
            return archives.load_npz(io.BytesIO(content))
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in members and read(f"{root}byteorder") == b"big":
            raise InputError("it was saved on a big-endian machine, which is not read")
        tree = safe_pickle.read_pickle(io.BytesIO(read(pickled[0])), [])
        return named_arrays(tree, lambda key: read(f"{root}data/{key}"), _typed)


def _pickle(content: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(content)
    first = safe_pickle.read_pickle(stream, [])
    if first == MAGIC:
        tree, storages = _stream(stream)
        return named_arrays(tree, storages.__getitem__, _typed)

    def none(key):
        raise KeyError(f"storage {key}")

    return named_arrays(first, none, _typed)


def _stream(stream: io.BytesIO) -> tuple[Any, dict[str, bytes]]:
    """What torch.save wrote before it wrote zips, its magic number read already: the tree, and storages by key."""
    safe_pickle.read_pickle(stream)  # the version
    system = safe_pickle.read_pickle(stream)
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise InputError("it was saved on a big-endian machine, which is not read")
    ids: list[Any] = []
    tree = safe_pickle.read_pickle(stream, ids)
    sizes = {}
    for saved in ids:
        dtype = np.dtype(DTYPES[saved[1].name.rpartition(".")[2].removesuffix("Storage")])
        sizes[str(saved[2])] = dtype.itemsize
    storages = {}
    for key in safe_pickle.read_pickle(stream):
        (count,) = struct.unpack("<q", stream.read(8))
        length = count * sizes[str(key)]
        data = stream.read(length) if length >= 0 else b""
        if len(data) != length:
            raise ValueError(f"storage {key} is cut off")
        storages[str(key)] = data
    return tree, storages


def _typed(content: bytes) -> tuple[Any, bytes]:
    """Element type and bytes of a storage that was saved by itself inside a pickle."""
    stream = io.BytesIO(content)
    if safe_pickle.read_pickle(stream) != MAGIC:
        raise ValueError("a storage inside a pickle that torch.save did not write")
    storage, storages = _stream(stream)
    _, typed, key, *_ = storage.arguments[0]
    dtype = np.dtype(DTYPES[typed.name.rpartition(".")[2].removesuffix("Storage")])
    return dtype, storages[str(key)]
