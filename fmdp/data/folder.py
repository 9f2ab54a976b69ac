"""A folder of pictures, with subfolders of any depth."""

import functools
import os
import pathlib
from collections.abc import Collection
from io import BufferedIOBase

from absl import logging

from fmdp.data.decoding import SUFFIXES, ImageFiles, open_file
from fmdp.data.directory_layout import arrange


def list_folder(root: pathlib.Path) -> tuple[ImageFiles, ImageFiles | None]:
    """The pictures below a folder, divided where `arrange` finds an official split."""
    return arrange(list_names(root), functools.partial(_open, root))


def list_names(root: pathlib.Path, suffixes: Collection[str] = SUFFIXES) -> list[str]:
    """The sorted relative paths of the pictures below a folder, which are recognised by their suffixes.

    Links are followed, but every folder is visited only once. Hidden files and folders are ignored. A folder that
    cannot be read is reported in one line.
    """
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_warn):
        try:
            state = pathlib.Path(folder).stat()
        except OSError as error:  # it was removed in the meantime
            _warn(error)
            continue
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and pathlib.PurePath(name).suffix.lower() in suffixes:
                found.append(pathlib.Path(folder, name).relative_to(root).as_posix())
    return sorted(found)


def _open(root: pathlib.Path, name: str) -> BufferedIOBase:
    return open_file(root / name)


def _warn(error: OSError) -> None:
    logging.warning("%r cannot be read (%s): the pictures in it are left out", error.filename, error.strerror)
