"""A zip of pictures, in the layout that StyleGAN's tools write or any other; nothing is ever unpacked."""

import functools
import json
import pathlib
import zipfile
from io import BufferedIOBase
from typing import cast

import numpy as np

from fmdp.data.decoding import SUFFIXES, ImageFiles, UnusableError
from fmdp.data.directory_layout import arrange
from fmdp.errors import InputError, reason
from fmdp.io.archives import MAX_EXPANSION, is_bomb

LABELS = "dataset.json"


def list_zip(path: pathlib.Path) -> tuple[ImageFiles, ImageFiles | None]:
    """The pictures of a zip, and those held out where `arrange` sees an official split.

    Their classes are those of StyleGAN's dataset.json, {"labels": [[name, class], ...]}, where it has any. Hidden
    files, and what macOS puts beside the files, are not looked at; of several members of one name the last counts.

    Raises:
      InputError: it is no zip, or its dataset.json is of another form.
    """
    try:
        members = {member.filename for member in _archive(path).infolist() if not member.is_dir()}
    except Exception as error:  # zipfile raises many kinds for a damaged file
        raise InputError(f"{path} is not a zip that can be read ({reason(error)}): make it anew") from error
    pictures = [name for name in members if _is_picture(pathlib.PurePosixPath(name))]
    labels = _labels(path) if LABELS in members else {}
    parts = arrange(sorted(pictures), functools.partial(_open, path))
    if not labels:
        return parts
    train, test = (
        part and part._replace(labels=np.array([labels.get(name, -1) for name in part.names], int)) for part in parts
    )
    return cast(ImageFiles, train), test


def _is_picture(path: pathlib.PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) and not part.startswith("..") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


@functools.lru_cache(maxsize=4)
def _archive(path: pathlib.Path) -> zipfile.ZipFile:
    """The zip, opened once in each process; its members may be read by several threads."""
    return zipfile.ZipFile(path)


def _open(path: pathlib.Path, name: str) -> BufferedIOBase:
    pure = pathlib.PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise UnusableError("its name leads out of the zip")
    try:
        member = _archive(path).getinfo(name)
        if is_bomb(member.file_size, member.compress_size):
            raise UnusableError(f"it unpacks to more than {MAX_EXPANSION} times its size")
        return cast(BufferedIOBase, _archive(path).open(member))
    except (OSError, UnusableError):
        raise
    except Exception as error:  # damaged, packed unusually, encrypted
        raise UnusableError(reason(error)) from error


def _labels(path: pathlib.Path) -> dict[str, int]:
    try:
        with _open(path, LABELS) as file:
            labels = json.load(file)["labels"] or ()
        return {str(name): int(np.int64(label)) for name, label in labels}
    except Exception as error:  # of zipfile and zlib, too
        raise InputError(
            f'{path}: its {LABELS} is not {{"labels": [[name, class], ...]}}: mend it, or take it out'
        ) from error
