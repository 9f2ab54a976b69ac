"""A zip of pictures, in the layout of StyleGAN's tools or any other, which is never unpacked to disk."""

import functools
import json
import pathlib
import zipfile
from io import BufferedIOBase
from typing import cast

import numpy as np

from fmdp.data.decoding import SUFFIXES, ImageFiles, UnusableError, damage_as_unusable
from fmdp.data.directory_layout import arrange
from fmdp.errors import translating
from fmdp.io.archives import MAX_EXPANSION, is_bomb

LABELS = "dataset.json"


def list_zip(path: pathlib.Path) -> tuple[ImageFiles, ImageFiles | None]:
    """The pictures of a zip, divided where `arrange` finds an official split.

    StyleGAN's dataset.json, {"labels": [[name, class], ...]}, gives their classes if it exists. Hidden files, and the
    files that macOS adds, are ignored. Of several members with the same name, the last is used.

    Raises:
      InputError: it is not a zip, or its dataset.json has another form.
    """
    # zipfile raises errors of many kinds for a damaged file.
    with translating(lambda why: f"{path} is not a zip that can be read ({why}): create it again", Exception):
        members = {member.filename for member in _archive(path).infolist() if not member.is_dir()}
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
    """The zip, opened once in each process; several threads may read its members."""
    return zipfile.ZipFile(path)


def _open(path: pathlib.Path, name: str) -> BufferedIOBase:
    pure = pathlib.PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise UnusableError("its name points outside the zip")
    with damage_as_unusable():  # or encrypted, or compressed by an unsupported method
        member = _archive(path).getinfo(name)
        if is_bomb(member.file_size, member.compress_size):
            raise UnusableError(f"it unpacks to more than {MAX_EXPANSION} times its size")
        return cast(BufferedIOBase, _archive(path).open(member))


def _labels(path: pathlib.Path) -> dict[str, int]:
    message = f'{path}: its {LABELS} is not {{"labels": [[name, class], ...]}}: correct it, or remove it'
    with translating(lambda why: message, Exception), _open(path, LABELS) as file:
        return {str(name): int(np.int64(label)) for name, label in json.load(file)["labels"] or ()}
