"""Checkpoint files of all common formats as named arrays."""

import gzip
import io
import os
import pathlib
import struct
import zlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from fmdp.errors import InputError, translating
from fmdp.io import archives
from fmdp.io.torch_files import safe_pickle
from fmdp.io.torch_files.safe_pickle import as_text
from fmdp.io.torch_files.tensors import DTYPES, named_arrays, network_class

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle in a file of torch.save from before it wrote zips
GZIP = b"\x1f\x8b"
FAULTS = (
    ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError, RecursionError, MemoryError,
    struct.error, NotImplementedError, SafetensorError, zlib.error, gzip.BadGzipFile,
)  # fmt: skip


class Checkpoint(NamedTuple):
    """What a checkpoint file holds of a network.

    Attributes:
      arrays: by name.
      network_class: the name of the network's class, which only pickles of modules hold; "" elsewhere. It is untrusted
        text.
      switches: the names of the attributes that are True in it, which may be untrusted text, too.
    """

    arrays: dict[str, np.ndarray]
    network_class: str = ""
    switches: frozenset[str] = frozenset()


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a checkpoint file, as `read_checkpoint` reads them."""
    return read_checkpoint(path).arrays


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The named arrays of a checkpoint file and the class of its network, without executing anything in it.

    Supported are files of torch.save (zips and the older streams), pickles of modules with their source text (as EDM
    writes them), .safetensors, and .npz of named arrays; the first bytes decide which it is. Each may be compressed by
    gzip. If a checkpoint holds several networks, the averaged one is taken. bfloat16 arrays have the type
    ml_dtypes.bfloat16.

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
        unpacked = archives.gunzip(io.BytesIO(content)) if content.startswith(GZIP) else content
        return _checkpoint(unpacked, len(content))


def _checkpoint(content: bytes, packed: int) -> Checkpoint:
    """The checkpoint in these bytes, which were so many in the file."""
    if content.startswith(b"PK"):
        return _zip(content, packed)
    if content[:1] == b"\x80":
        return _pickle(content)
    if content[8:9] == b"{":
        return Checkpoint(load_safetensors(content))
    raise InputError("it is neither a pickle, nor a zip of torch or NumPy, nor safetensors: name a checkpoint")


def _zip(content: bytes, packed: int) -> Checkpoint:
    with archives.open_zip(io.BytesIO(content)) as file:
        members = file.namelist()
        if archives.is_bomb(sum(member.file_size for member in file.infolist()), packed):
            raise InputError(f"it unpacks to more than {archives.MAX_EXPANSION} times its size: download it again")
        read = partial(archives.read_member, file)
        pickled = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if not pickled:
            return Checkpoint(archives.load_npz(io.BytesIO(content)))
        root = pickled[0].removesuffix("data.pkl")
        if f"{root}byteorder" in members and read(f"{root}byteorder") == b"big":
            raise InputError("it was saved on a big-endian machine, which is not supported")
        tree = safe_pickle.read_pickle(io.BytesIO(read(pickled[0])), [])
        return Checkpoint(named_arrays(tree, lambda key: read(f"{root}data/{key}"), _typed), *network_class(tree))


def _pickle(content: bytes) -> Checkpoint:
    stream = io.BytesIO(content)
    first = safe_pickle.read_pickle(stream, [])
    tree, storages = _stream(stream) if first == MAGIC else (first, {})
    return Checkpoint(named_arrays(tree, storages.__getitem__, _typed), *network_class(tree))


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
