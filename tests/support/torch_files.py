"""Checkpoint files as torch and EDM write them, made without torch: the globals are stand-ins of the same names."""

import contextlib
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

from fmdp.io.torch_files.reader import MAGIC

KINDS = {"float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long", "uint8": "Byte", "bool": "Bool"}


class Call:
    """Pickled as a call of a global by its name."""

    def __init__(self, module, name, arguments, state=None):
        self.parts = Named(module, name), tuple(arguments), state

    def __reduce__(self):
        called, arguments, state = self.parts
        return (called.target, arguments) if state is None else (called.target, arguments, state)


class Named:
    """A global: something that pickles as `module.name`."""

    def __init__(self, module, name):
        parts = module.split(".")
        for i in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
        home = sys.modules[module]
        if not hasattr(home, name):
            function = types.FunctionType((lambda *a: None).__code__, {}, name)
            function.__module__, function.__qualname__ = module, name
            setattr(home, name, function)
        self.target = getattr(home, name)


@contextlib.contextmanager
def invented_modules():
    """Removes the modules that `Named` invents, so that nobody takes them for the real ones."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], types.ModuleType) and getattr(sys.modules[name], "__spec__", 0) is None:
                del sys.modules[name]


class Storage:
    """A storage, pickled as a persistent id."""

    def __init__(self, key, array):
        self.key, self.array = key, np.array(array, order="C")


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        if not isinstance(thing, Storage):
            return None
        kind = Named("torch", f"{KINDS[thing.array.dtype.name]}Storage").target
        return ("storage", kind, thing.key, "cuda:0", thing.array.size, *self.view)

    view: tuple = ()


def dump(value, view=(), protocol=2):
    """A pickle with persistent ids for storages."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol)
    pickler.view = view
    pickler.dump(value)
    return file.getvalue()


def contiguous(shape):
    """Strides in elements."""
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def tensor(storage, shape=None, stride=None, offset=0):
    """A tensor over a storage; whole and contiguous unless told."""
    shape = storage.array.shape if shape is None else shape
    stride = contiguous(shape) if stride is None else stride
    return Call("torch._utils", "_rebuild_tensor_v2", (storage, offset, tuple(shape), stride, False, {}))


def stream(value, storages):
    """What torch.save wrote before zips, with view metadata as it has there."""
    parts = [pickle.dumps(x, 2) for x in (MAGIC, 1001, {"little_endian": True})]
    parts += [dump(value, (None,)), pickle.dumps([s.key for s in storages], 2)]
    for s in storages:
        parts += [struct.pack("<q", s.array.size), s.array.tobytes()]
    return b"".join(parts)


def torch_zip(arrays, wrap=lambda x: x):
    """What torch.save writes of a dict of arrays."""
    storages = [Storage(str(i), array) for i, array in enumerate(arrays.values())]
    file = io.BytesIO()
    with invented_modules(), zipfile.ZipFile(file, "w") as archive:
        tree = wrap(dict(zip(arrays, map(tensor, storages), strict=True)))
        archive.writestr("archive/data.pkl", dump(tree))
        archive.writestr("archive/version", "3\n")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
    return file.getvalue()


def torch_stream(arrays, wrap=lambda x: x):
    """The same in the older form."""
    storages = [Storage(str(i), array) for i, array in enumerate(arrays.values())]
    return stream(wrap(dict(zip(arrays, map(tensor, storages), strict=True))), storages)


def inside(array):
    """A tensor as it stands in a plain pickle: its storage is a stream of its own."""
    storage = Storage("0", array)
    loaded = Call("torch.storage", "_load_from_bytes", (stream(storage, [storage]),))
    shape = np.shape(array)
    return Call("torch._utils", "_rebuild_tensor_v2", (loaded, 0, shape, contiguous(shape), False, {}))


def module(arrays, source="raise SystemExit('executed')", network_class="AMFPrecond", switches=()):
    """A module object with its source text beside it, and those inside it, as EDM's persistence writes them.

    All of them have the attributes `switches`, which are True.
    """
    parameters, inner = {}, {}
    for name, array in arrays.items():
        head, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(head, {})[rest] = array
        else:
            called = "_rebuild_parameter"
            parameters[name] = Call("torch._utils", called, (inside(np.asarray(array)), True, {}))
    state = {
        "training": False,
        "_parameters": parameters,
        "_buffers": {"unused": None},
        "_modules": {name: module(part, source, "Inner", switches) for name, part in inner.items()},
        **dict.fromkeys(switches, True),
    }
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": network_class, "state": state}
    return Call("torch_utils.persistence", "_reconstruct_persistent_obj", (meta,))


def edm_pickle(arrays, source="raise SystemExit('executed')", network_class="AMFPrecond", switches=()):
    """A released snapshot: the averaged network among other things."""
    with invented_modules():
        ema = module(arrays, source, network_class, switches)
        return pickle.dumps({"ema": ema, "loss_fn": None, "dataset_kwargs": {"path": "x.zip"}}, 4)
