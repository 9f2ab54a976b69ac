"""A folder of pictures, of any depth."""

import functools
import os
import pathlib
from io import BufferedIOBase

from fmdp.data.layout import arrange
from fmdp.data.pictures import SUFFIXES, Files


def find(root: pathlib.Path) -> tuple[Files, Files | None]:
    """The pictures below a folder, and those held out where `arrange` sees an official split."""
    return arrange(names(root), functools.partial(_open, root))


def names(root: pathlib.Path) -> list[str]:
    """The pictures below a folder as paths relative to it, in order, told by their suffixes.

    Links are followed, into each folder once; hidden files and folders are not looked at.
    """
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        state = pathlib.Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and pathlib.PurePath(name).suffix.lower() in SUFFIXES:
                found.append(pathlib.Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def _open(root: pathlib.Path, name: str) -> BufferedIOBase:
    return (root / name).open("rb")
