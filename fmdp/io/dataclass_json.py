"""Dataclasses as JSON and back.

A dataclass becomes an object with one key per field. Two rules keep the objects short: a field that is None by default
is left out while it is None, and the entries of a field called `measures` stand beside the other keys.
"""

import dataclasses
import functools
import types
import typing
from typing import Any

from fmdp.errors import InputError

MAX_BITS = 64  # of whole numbers; larger ones are not finite as a float


def to_json(value: Any) -> Any:
    """A dataclass, or a collection of them, as dicts, lists, text and numbers."""
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [to_json(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if field.name == "measures":
            found |= content
        elif content is not None or field.default is not None:
            found[field.name] = to_json(content)
    return found


def from_json(kind: Any, value: Any, where: str) -> Any:
    """The inverse of `to_json`.

    Args:
      kind: a dataclass, or the annotation of a field: a list, a dict, a union or a plain type.
      value: as `json.loads` returns it. Keys that the dataclass lacks are dropped.
      where: the name of the value in error messages.

    Raises:
      InputError: the value is not of this kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (value is None and types.NoneType in arguments):
        return value
    if origin in (types.UnionType, typing.Union):
        present = [argument for argument in arguments if argument is not types.NoneType]
        return from_json(present[0], value, where) if len(present) == 1 else _plain(tuple(present), value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, _plain(dict, value, where), where)
    _plain(origin or kind, value, where)
    if origin is list:
        return [from_json(arguments[0], part, f"{where}[{index}]") for index, part in enumerate(value)]
    if origin is dict:
        return {key: from_json(arguments[1], part, f"{where}.{key}") for key, part in value.items()}
    return value


def _plain(kinds: type | tuple[type, ...], value: Any, where: str) -> Any:
    """The value, where it is of one of these kinds."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    huge = isinstance(value, int) and value.bit_length() > MAX_BITS
    if not isinstance(value, kinds) or huge or (isinstance(value, bool) and bool not in kinds):
        raise InputError(f"{where} is {str(value)[:50]!r}, not {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    found = {
        name: from_json(hint, value[name], f"{where}.{name}")
        for name, hint in hints.items()
        if name in value and name != "measures"
    }
    if "measures" in hints:
        rest = {name: part for name, part in value.items() if name not in found}
        found["measures"] = from_json(hints["measures"], rest, where)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in found:
            raise InputError(f"{where} has no {field.name}")
    return kind(**found)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
