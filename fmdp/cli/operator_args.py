"""The parameters of an operator on the command line, as NAME=VALUE."""

import contextlib
import json
from typing import Any

from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError, translating
from fmdp.io.files import expand_path
from fmdp.operators import GIVEN_ARRAYS
from fmdp.restoration.mask_files import read_mask
from fmdp.restoration.picture_files import read_kernel


def parse_operator_args(texts: list[str]) -> dict[str, Any]:
    """All parameters of an operator, from NAME=VALUE each.

    Raises:
      InputError: one of them cannot be read, or is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, value = parse_operator_arg(text)
        if name in found:
            raise InputError(f"--operator_arg={text}: {name} is given twice: keep one")
        found[name] = value
    return found


def parse_operator_arg(text: str) -> tuple[str, Any]:
    """A parameter of an operator from NAME=VALUE.

    Raises:
      InputError: it has another form, or names an image that cannot be read.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--operator_arg={text}: write NAME=VALUE, such as size=9")
    if name in GIVEN_ARRAYS:
        with translating(lambda why: f"--operator_arg={text}: {why}", OSError, UnusableError, InputError):
            if name == "mask":
                return name, read_mask(expand_path(value))
            return name, read_kernel(expand_path(value))
    for read in (json.loads, float):  # .5 is a number, though not in JSON
        with contextlib.suppress(ValueError, RecursionError):
            return name, read(value)
    return name, value
