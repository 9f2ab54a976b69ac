"""Pickles read as data: calls in a pickle are recorded instead of being made.

The standard library's `pickletools` splits a pickle into opcodes without executing anything; this module interprets
them. Globals stay names: none is looked up, imported or called. In addition, a global has to be one that checkpoints
consist of (`ADMITTED`). A malicious file is therefore refused, with the name of what it tried to call, and no part of
it is passed on.
"""

import io
import pickletools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from fmdp.errors import InputError

PERSISTENT = "persistent id"  # the name of the record that stands for one; no global has this name

ADMITTED = re.compile(
    "|".join(
        [
            # tensors and their storages
            r"torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)",
            r"torch\._tensor\._rebuild_from_type_v2",
            r"torch\.storage\.(_load_from_bytes|TypedStorage|UntypedStorage)",
            r"torch(\.cuda)?\.[A-Z][A-Za-z0-9]*Storage",
            # types
            r"torch\.(Tensor|Size|device|serialization\._get_layout|bool|(u?int|b?float|complex)\d+\w*)",
            # modules and activations
            r"torch\.nn(\.(functional|parameter|(modules|parallel|utils)(\.\w+)?))?\.[A-Za-z]\w*",
            r"torch\._C\._nn\.[a-z]\w*",
            # objects with their source text, and the classes of the programs that write them
            r"(\w+\.)*persistence\._reconstruct_persistent_obj",
            r"dnnlib\.util\.EasyDict",
            r"training(\.[A-Za-z]\w*)+",
            # arrays of numpy
            r"numpy\.(ndarray|dtype|bool_?|(u?int|float|complex)\d+)",
            r"numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)",
            # containers
            r"collections\.(OrderedDict|defaultdict|deque)",
            r"builtins\.(object|dict|list|tuple|set|frozenset|bytes|bytearray)",
            r"copyreg\._reconstructor",
            r"_codecs\.encode",
        ]
    )
)
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules by their old names


class GlobalName(NamedTuple):
    """The name of a global, which is never looked up."""

    name: str


class PickledCall:
    """A recorded call: the name of the callable, its arguments, and the state that is set afterwards."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: tuple):
        """A call that is not made."""
        self.name, self.arguments, self.state = name, arguments, None


def read_pickle(stream: io.BytesIO, ids: list | None = None) -> Any:
    """One pickle as dicts, lists, tuples, strings, bytes and numbers, and PickledCall or GlobalName for all else.

    Sets are returned as lists. Values may contain themselves, as in any pickle.

    Args:
      stream: bytes in memory (other streams trust the lengths that a file states); it is left after the pickle.
      ids: collects the persistent ids, which appear in the value as PickledCall with the name PERSISTENT; None refuses
        them.

    Raises:
      InputError: a global is not admitted.
      ValueError, IndexError, KeyError, TypeError, OverflowError: the pickle is damaged.
    """
    machine = _Machine(ids)
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """The stack, the marked stacks below it, and the memo of one pickle."""

    def __init__(self, ids: list | None):
        self.stack: list[Any] = []
        self.below: list[list] = []
        self.memo: dict[int, Any] = {}
        self.ids = ids

    def step(self, opcode: str, argument: Any) -> None:
        """Interpret one opcode; opcodes that no checkpoint uses are refused."""
        stack = self.stack
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _STATED:
            stack.append(argument)
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            self.below.append(stack)
            self.stack = []
        elif opcode in ("POP_MARK", "POP"):
            # Popping the mark itself removes everything above it.
            self._marked() if opcode == "POP_MARK" or not stack else stack.pop()
        elif opcode == "DUP":
            stack.append(stack[-1])
        elif opcode not in ("PROTO", "FRAME") and not self._contain(opcode):
            self._make(opcode, argument)

    def _marked(self) -> list:
        """Everything above the latest mark, removed together with it."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def _contain(self, opcode: str) -> bool:
        """Make or fill a container; False if the opcode does something else."""
        if opcode in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"):
            self.stack.append({"EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}.get(opcode, list)())
        elif opcode in ("LIST", "FROZENSET"):
            items = self._marked()
            self.stack.append(items)
        elif opcode == "TUPLE":
            items = self._marked()
            self.stack.append(tuple(items))
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = [self.stack.pop() for _ in range(int(opcode[-1]))]
            self.stack.append(tuple(items[::-1]))
        elif opcode == "DICT":
            items = self._marked()
            self.stack.append(_mapping(items))
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._marked() if opcode == "SETITEMS" else [self.stack.pop() for _ in range(2)][::-1]
            if isinstance(self.stack[-1], dict):
                self.stack[-1].update(_mapping(items))
        elif opcode in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [self.stack.pop()] if opcode == "APPEND" else self._marked()
            if isinstance(self.stack[-1], list):
                self.stack[-1].extend(items)
        else:
            return False
        return True

    def _make(self, opcode: str, argument: Any) -> None:
        """Record a lookup, a call or a state."""
        if opcode == "GLOBAL":
            self.stack.append(_admit(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = self.stack.pop(), self.stack.pop()
            self.stack.append(_admit(as_text(module), as_text(name)))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, called = self.stack.pop(), self.stack.pop()
            self.stack.append(_note(called, arguments))
        elif opcode == "NEWOBJ_EX":
            _, arguments, called = (self.stack.pop() for _ in range(3))
            self.stack.append(_note(called, arguments))
        elif opcode in ("INST", "OBJ"):
            items = self._marked()
            called = _admit(*argument.split(" ", 1)) if opcode == "INST" else items.pop(0)
            self.stack.append(_note(called, tuple(items)))
        elif opcode == "BUILD":
            state = self.stack.pop()
            if isinstance(self.stack[-1], PickledCall):
                self.stack[-1].state = state
        elif opcode == "BINPERSID" and self.ids is not None:
            self.ids.append(self.stack.pop())
            self.stack.append(PickledCall(PERSISTENT, (self.ids[-1],)))
        else:
            raise InputError(f"its pickle has the opcode {opcode}, which does not belong in a checkpoint")


KEYS = str | bytes | int | float | None | GlobalName | PickledCall  # hashed in constant time, without recursion
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_STATED = frozenset(
    [
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    ]
)  # fmt: skip


def as_text(value: Any) -> str:
    """A text in a pickle, TypeError for other values: str() of tuples that share their parts might never end."""
    return "".join([value])


def _admit(module: str, name: str) -> GlobalName:
    full = f"{PYTHON_2.get(module, module)}.{name}"
    if not ADMITTED.fullmatch(full):
        remedy = "nothing was run: look for a .safetensors file, or for one with only the state_dict"
        raise InputError(f"it asks for {ascii(full)[1:-1][:100]}, which does not belong in a checkpoint; {remedy}")
    return GlobalName(full)


def _note(called: Any, arguments: Any) -> Any:
    """The record of a call; for containers, the container that the call would give."""
    if not isinstance(called, GlobalName) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that has no name")
    if called.name == "copyreg._reconstructor":  # objects before protocol 2: the class, its base, and the base's value
        kind, base, value = arguments
        return _note(kind, () if base.name == "builtins.object" else (value,))
    if called.name in _CONTAINERS:
        return _CONTAINERS[called.name](*arguments)
    return PickledCall(called.name, arguments)


def _mapping(items: list) -> dict:
    """A dict of alternating keys and values."""
    for key in items[::2]:
        if not isinstance(key, KEYS):
            raise ValueError("a key that may take long to hash")
    return dict(zip(items[::2], items[1::2], strict=True))


def _dict(*arguments: Any) -> dict:
    if not arguments or isinstance(arguments[0], dict):
        return dict(*arguments)
    return _mapping([x for key, value in arguments[0] for x in (key, value)])


def _list(items: Any = (), *_: Any) -> list:
    return list(items)


def _bytes(value: Any = b"", *_: Any) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else bytes(memoryview(value))  # bytes(n) would make room


_CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda factory=None, *rest: _dict(*rest),
    "collections.deque": _list,
    "dnnlib.util.EasyDict": _dict,
    "builtins.dict": _dict,
    "builtins.list": _list,
    "builtins.set": _list,
    "builtins.frozenset": _list,
    "builtins.tuple": lambda items=(): tuple(_list(items)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
    "torch.Size": lambda items=(): tuple(_list(items)),
}
