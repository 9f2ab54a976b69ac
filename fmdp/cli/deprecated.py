"""Flags of version 0.1.0 under the names they have now, with one line for each that is used."""

import re
import sys
from collections.abc import Sequence

from fmdp.config.renamed import RENAMED

FLAGS = {"parameter": "operator_arg", "draws": "num_samples"} | {
    f"config.{old}": f"config.{new}" for old, new in RENAMED.items()
}
"""Old flag to new flag. The old ones are accepted in this version only."""


def rename_flags(argv: Sequence[str]) -> list[str]:
    """The command line with old flags replaced by new ones; each replacement is reported on standard error."""
    renamed = []
    for argument in argv:
        dashes, name, rest = re.fullmatch(r"(--?)?([^=]*)(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
        if dashes and name in FLAGS:
            warn_renamed(f"--{name}", f"--{FLAGS[name]}")
            argument = f"{dashes}{FLAGS[name]}{rest}"
        renamed.append(argument)
    return renamed


def warn_renamed(old: str, new: str) -> None:
    """Report the use of an old name."""
    print(f"fmdp: {old} is deprecated and will be removed in the next version: use {new}", file=sys.stderr)
