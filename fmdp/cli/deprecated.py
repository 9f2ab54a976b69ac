"""Flags of version 0.1.0 under the names and defaults they have now, with one line for each that is used."""

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


def warn_degraded(already: bool | None, describes_damage: bool) -> None:
    """Report what --mode=restore meant before version 0.2 to a command without --degrade, where it may rely on it.

    Args:
      already: the value of --already_degraded, None where it is not given.
      describes_damage: whether the command names an operator or a noise level.
    """
    if already is not None:
        remedy = "this is now the default, leave it out" if already else "use --degrade"
        print(f"fmdp: --already_degraded={already}: {remedy}", file=sys.stderr)
    elif describes_damage:
        line = "the pictures count as degraded: --degrade degrades clean ones first, --nodegrade hides this line"
        print(f"fmdp: {line}", file=sys.stderr)
