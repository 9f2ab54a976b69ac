"""What a comparison of solvers has measured so far, kept in files, so that a stopped run goes on from there."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from fmdp.errors import InputError
from fmdp.io.archives import load_npz
from fmdp.io.files import atomic_write

Part: TypeAlias = tuple[Any, dict[str, np.ndarray]]
"""A part of a comparison: what is plain JSON of it, and its arrays by name."""

PLAIN = "plain"  # the name of the JSON beside the arrays in a file


@dataclass(frozen=True)
class SolverRecords:
    """The parts of a comparison in a folder. A part is found again only where all that it depends on is the same.

    Attributes:
      folder: made with the first part; None to keep nothing.
      facts: what the parts depend on, as JSON.
    """

    folder: pathlib.Path | None = None
    facts: Any = None

    def within(self, facts: Any) -> "SolverRecords":
        """The records of parts that depend on more than the others, such as on a task."""
        return dataclasses.replace(self, facts=[self.facts, facts])

    def recall(self, name: Any, compute: Callable[[], Part]) -> Part:
        """The part of this name, which is JSON. Where it was not kept, `compute` gives it, and it is kept."""
        if self.folder is None or jax.process_count() > 1:  # processes on other machines would not find the files
            return compute()
        told = json.dumps([self.facts, name], sort_keys=True)
        path = self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npz"
        if (kept := _read(path)) is not None:
            return kept
        plain, arrays = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(json.dumps(plain).encode(), np.uint8)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{PLAIN: text}, **arrays)  # type: ignore[arg-type]
        return plain, arrays

    def clear(self) -> None:
        """Removes the parts, whatever they depend on, and the folder if it holds nothing else."""
        if self.folder is None:
            return
        for path in self.folder.glob("*.npz"):
            if re.fullmatch(r"[0-9a-f]{32}", path.stem):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is none, or it holds other files
            self.folder.rmdir()


NO_RECORDS = SolverRecords()
"""Keeps nothing."""


def _read(path: pathlib.Path) -> Part | None:
    try:
        arrays = load_npz(path) if path.exists() else {}
        return json.loads(arrays.pop(PLAIN).tobytes()), arrays
    except (InputError, KeyError, ValueError):  # there is none, or a damaged one
        return None
