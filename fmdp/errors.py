"""Errors that the user can fix, as opposed to faults of this program, and what can be wrong with a single value."""

import contextlib
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import numpy as np

MAX_NUMBER = 1e30  # above all numbers that are of use


def reason(error: BaseException) -> str:
    """The first line of an error's message, shortened; its type where it has no message."""
    return (str(error).splitlines() or [""])[0][:100] or type(error).__name__


def printable(text: str) -> str:
    """The text in one line, with escapes for all characters that a terminal cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Input that fmdp cannot use. The message is one line that names the value and the remedy."""


class ParameterError(InputError):
    """A parameter of a function or class that cannot be used, by the name that Python code gives it.

    The command line names its own flag instead, with the same remedy.

    Attributes:
      parameter: its name.
      remedy: what is wrong with its value and what to do.
    """

    def __init__(self, owner: str, parameter: str, value: object, remedy: str):
        """The message is `owner(parameter=value): remedy`."""
        super().__init__(f"{owner}({parameter}={' '.join(repr(value).split())[:100]}): {remedy}")
        self.parameter, self.remedy = parameter, remedy


@contextlib.contextmanager
def translating(message: Callable[[str], str], *kinds: type[BaseException]) -> Iterator[None]:
    """Turns errors of these kinds in the block into an InputError, with `message` of the reason that they give.

    An InputError is raised unchanged, unless it is one of the kinds.
    """
    try:
        yield
    except kinds as error:
        if isinstance(error, InputError) and InputError not in kinds:
            raise
        why = str(error) if isinstance(error, InputError) else getattr(error, "strerror", None) or reason(error)
        raise InputError(message(why)) from error


def plain(value: Any) -> Any:
    """A number of numpy as one of Python, whose arithmetic neither wraps around nor overflows; all else unchanged."""
    if not isinstance(value, np.generic | np.ndarray) or value.ndim:
        return value
    return float(value) if jax.numpy.issubdtype(value.dtype, jax.numpy.floating) else value.item()


def kind_fault(value: Any, kind: type, limit: int | float = MAX_NUMBER) -> str:
    """What a value should be instead if it is not of this kind; "" if it is.

    Args:
      kind: bool, str, int or float (which whole numbers are, too).
      limit: numbers have to be smaller than that in magnitude.
    """
    if kind is bool or kind is str:
        return "" if isinstance(value, kind) else {bool: "True or False", str: "text"}[kind]
    name = "a whole number" if kind is int else "a finite number"
    numbers: Any = Integral if kind is int else Real
    value = plain(value) if isinstance(value, np.generic) else value  # bfloat16 is no Real, float16 has no limit
    if isinstance(value, bool) or not isinstance(value, numbers):
        return name
    return "" if -limit < value < limit else f"{name} below {limit:.3g}"


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included, except for `excluded`, which is one of the two or None."""

    low: int | float
    high: int | float = math.inf
    excluded: int | float | None = None

    def fault(self, value: Any) -> str:
        """What a number should be instead if it is outside; "" if it is inside."""
        if self.low <= value <= self.high and value != self.excluded:
            return ""
        least = f"{'above' if self.excluded == self.low else 'that is at least'} {self.low:g}"
        if self.high == math.inf:
            return f"a number {least}"
        if self.excluded is None:
            return f"a number from {self.low:g} to {self.high:g}"
        return f"a number {least} and {'below' if self.excluded == self.high else 'at most'} {self.high:g}"


def require_in_range(owner: str, ranges: Mapping[str, Range], values: Mapping[str, Any]) -> None:
    """Raises InputError for a number outside the range of its name; values that a transformation traces pass."""
    for name, limits in ranges.items():
        value: Any = values.get(name)
        known = isinstance(value, str | int | float | np.ndarray | np.generic | jax.Array)  # not a pytree's placeholder
        for number in np.ravel(value).tolist() if known and not isinstance(value, jax.core.Tracer) else ():
            if fault := kind_fault(number, float) or limits.fault(number):
                raise InputError(f"{owner}: {name}={number!r}: pass {fault}")


def require_known(what: str, name: Any, known: Iterable[str]) -> None:
    """Raises InputError, which begins with `what` and suggests the closest known name, for an unknown one."""
    if name not in (names := list(known)):
        close = difflib.get_close_matches(str(name), names, 1, 0.5)
        suggestion = f", did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{what} {name!r}{suggestion}; known: {', '.join(names) or 'none'}")


def require_key(owner: str, key: Any) -> None:
    """Raises InputError, which begins with `owner`, for anything but one random key of JAX, also of the older kind."""
    new = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    old = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape in ((2,), (4,))
    if not (new or old):
        given = "" if key is None else f", not by key={' '.join(repr(key).split())[:60]}"
        raise InputError(f"{owner}{given}: pass key=jax.random.key(...)")
