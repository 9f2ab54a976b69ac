"""Tensors and modules from the records of `safe_pickle`; each array is checked against the bytes that exist for it."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from fmdp.errors import InputError
from fmdp.io.torch_files.safe_pickle import PERSISTENT, PickledCall, as_text

DTYPES = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
    "ComplexFloat": np.complex64, "ComplexDouble": np.complex128, "Untyped": np.uint8,
}  # fmt: skip
BY_NAME = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "uint8": np.uint8, "bool": np.bool_,
    "complex64": np.complex64, "complex128": np.complex128,
}  # fmt: skip
# The keys under which checkpoints keep their networks; the first one found is taken.
NETWORKS = ("ema", "G_ema", "params_ema", "ema_state_dict", "model_ema", "state_dict", "model_state_dict", "model",
            "module", "net", "params")  # fmt: skip
MAX_DEPTH = 60  # levels of nesting
MAX_ENTRIES = 200_000  # of all nested dicts; dicts that share their parts can stand for exponentially many

Storages = Callable[[str], bytes]
"""The bytes of a storage by its key; KeyError where there is none."""


def named_arrays(tree: Any, storages: Storages, load_bytes: Callable[[bytes], Any]) -> dict[str, np.ndarray]:
    """The arrays of a network in a checkpoint, by their names in its state_dict.

    Args:
      tree: from `safe_pickle.read_pickle`.
      storages: of the file that holds the pickle.
      load_bytes: the result of `torch.storage._load_from_bytes` as (dtype, bytes).

    Raises:
      InputError: there are no arrays.
      ValueError, IndexError, KeyError, TypeError: the tree is not that of a checkpoint.
    """
    found = {}
    for name, leaf in _leaves(_network(tree), "", 0, itertools.count()):
        array = _array(leaf, storages, load_bytes)
        if array is not None:
            found[name] = array
    if not found:
        raise InputError("it holds no arrays of a network")
    return found


def network_class(tree: Any) -> tuple[str, frozenset[str]]:
    """The name of the class that a network was pickled under, and which switches it has on.

    Args:
      tree: from `safe_pickle.read_pickle`.

    Returns:
      The name, or "" where the tree does not say; and the names of all attributes that are True in the network or in a
      module directly inside it.
    """
    outer = _persistent(_network(tree))
    name, state = outer.get("class_name"), outer.get("state")
    modules = state.get("_modules") if isinstance(state, dict) else None
    inner = [_persistent(module).get("state") for module in modules.values()] if isinstance(modules, dict) else []
    states = [x for x in (state, *inner) if isinstance(x, dict)]
    switched = {key for x in states for key, value in x.items() if value is True and isinstance(key, str)}
    return name if isinstance(name, str) else "", frozenset(switched)


def _persistent(tree: Any) -> dict:
    """What a module object with its source text says of itself; {} for anything else."""
    if not isinstance(tree, PickledCall) or not tree.name.endswith("persistence._reconstruct_persistent_obj"):
        return {}
    (meta,) = tree.arguments
    return meta if isinstance(meta, dict) else {}


def _network(tree: Any) -> Any:
    """The network in a checkpoint: the value of one of the usual keys, or the whole tree."""
    for _ in range(3):
        if not isinstance(tree, dict):
            break
        inner = next((tree[key] for key in NETWORKS if isinstance(tree.get(key), dict | PickledCall)), None)
        if inner is None or (isinstance(inner, PickledCall) and inner.name in _REBUILT):
            break
        tree = inner
    return tree


def _leaves(tree: Any, prefix: str, depth: int, visits: Iterator[int]) -> Iterator[tuple[str, Any]]:
    """The entries that a state_dict would have: those of nested dicts, and parameters and buffers of modules."""
    if depth > MAX_DEPTH or next(visits) > MAX_ENTRIES:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep, or has more than {MAX_ENTRIES} entries")
    if meta := _persistent(tree):
        tree = meta["state"]
    elif isinstance(tree, PickledCall) and tree.name not in _REBUILT and isinstance(tree.state, dict):
        tree = tree.state
    if not isinstance(tree, Mapping):
        yield prefix, tree
        return
    if "_parameters" in tree and "_modules" in tree:
        parts = [tree["_parameters"], tree.get("_buffers") or {}, tree["_modules"]]
        tree = {name: value for part in parts for name, value in part.items() if value is not None}
    for name, value in tree.items():
        if isinstance(name, str):
            yield from _leaves(value, f"{prefix}.{name}" if prefix else name, depth + 1, visits)


def _array(leaf: Any, storages: Storages, load_bytes: Callable[[bytes], Any], depth: int = 0) -> np.ndarray | None:
    """The array that a leaf stands for, or None if it is something else, such as a number or an activation."""
    if not isinstance(leaf, PickledCall) or leaf.name not in _REBUILT or depth > MAX_DEPTH:
        return None
    arguments = leaf.arguments
    if leaf.name == "torch._utils._rebuild_parameter":
        return _array(arguments[0], storages, load_bytes, depth + 1)
    if leaf.name == "torch._tensor._rebuild_from_type_v2":
        called, _, inner, _ = arguments
        return _array(PickledCall(called.name, inner), storages, load_bytes, depth + 1)
    if leaf.name.startswith("numpy"):
        return _numpy(leaf)
    storage, offset, size, stride = arguments[:4]
    dtype, content = _storage(storage, storages, load_bytes)
    if leaf.name.endswith("_v3"):
        dtype = BY_NAME[arguments[6].name.removeprefix("torch.")]
    return strided(content, dtype, offset, size, stride)


_REBUILT = frozenset(
    [
        "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter", "torch._tensor._rebuild_from_type_v2",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
        "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
    ]
)  # fmt: skip


def strided(content: bytes, dtype: Any, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """The elements of a storage that a tensor views.

    Raises:
      ValueError: the tensor has more elements than the storage, or reaches beyond its end.
    """
    size, stride = (tuple(int(n) for n in numbers) for numbers in (size, stride))
    flat = np.frombuffer(content, dtype, count=len(content) // np.dtype(dtype).itemsize)
    last = -1 if 0 in size else offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or math.prod(size) > max(len(flat), 1) or last >= len(flat):
        raise ValueError(f"a tensor of {size}, up to element {last}, in a storage of {len(flat)}")
    if 0 in size:
        return np.empty(size, dtype)
    steps = [step * flat.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False).copy()


def _storage(storage: Any, storages: Storages, load_bytes: Callable[[bytes], Any]) -> tuple[Any, bytes]:
    """Element type and bytes of a storage; untyped storages consist of single bytes."""
    if storage.name == "torch.storage._load_from_bytes":
        return load_bytes(storage.arguments[0])
    if storage.name != PERSISTENT:
        raise ValueError("a tensor whose storage was not saved by torch.save")
    _, typed, key, _, count, *view = storage.arguments[0]
    dtype = np.dtype(DTYPES[typed.name.rpartition(".")[2].removesuffix("Storage")])
    content, start = storages(as_text(key)), 0
    if view and view[0] is not None:  # in old files: a part of another storage
        _, start, count = view[0]
    first, last = start * dtype.itemsize, (start + count) * dtype.itemsize
    if start < 0 or count < 0 or last > len(content):
        raise ValueError(f"a storage of {count} elements in {len(content)} bytes")
    return dtype, content[first:last]


def _numpy(leaf: PickledCall) -> np.ndarray:
    if leaf.name.endswith("_frombuffer"):
        content, dtype, shape, order = leaf.arguments
        fortran = order == "F"
    else:
        _, shape, dtype, fortran, content = tuple(leaf.state or ())  # of another length: a ValueError, as it should be
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    kind = np.dtype(as_text(dtype.arguments[0]))
    if isinstance(dtype.state, tuple) and dtype.state[1] in ("<", ">"):
        kind = kind.newbyteorder(dtype.state[1])
    # NumPy raises ValueError for types of objects or of no bytes, and where the content does not fill the shape.
    return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C").astype(kind.newbyteorder("="))
