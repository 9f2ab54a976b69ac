"""The test pictures of the benchmark: finding and reading them, and the noise of each."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmdp.data import folder
from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError
from fmdp.io.files import expand_path
from fmdp.operators.color import luma
from fmdp.restoration.picture_files import RESTORABLE, read_picture

GRAY_IN_COLOUR = "gray, measured as a colour picture with three equal channels, each with noise of its own"
COLOUR_IN_GRAY = "in colour, measured in gray (Rec. 601 luma), as this prior has no colour"


class PictureFile(NamedTuple):
    """The file of a test picture.

    Attributes:
      dataset: the name of its set, which is the name of the folder.
      name: its path below the folder.
      path: of the file.
      place: among the pictures of the folder, from 0.
    """

    dataset: str
    name: str
    path: pathlib.Path
    place: int


def find_pictures(folders: str, at_most: int = 0) -> list[PictureFile]:
    """The pictures of the folders in their order, sorted by name within each.

    Args:
      folders: their paths, separated by commas.
      at_most: this many of each folder, the first ones; 0 for all.

    Raises:
      InputError: a folder does not exist or holds no pictures, two have one name, or none is named.
    """
    found: list[PictureFile] = []
    for part in [part for part in folders.split(",") if part]:
        root = expand_path(part)
        if not root.is_dir():
            what = "is no folder" if root.exists() else "does not exist"
            raise _error(part, f"{what}: name folders of test pictures, separated by commas")
        dataset, names = root.resolve().name, folder.list_names(root, RESTORABLE)
        if not names:
            raise _error(part, f"holds no pictures: files of {', '.join(sorted(RESTORABLE))} are")
        if dataset in {picture.dataset for picture in found}:
            raise _error(part, f"two folders are called {dataset!r}, which names the results: rename one of them")
        pictures = [PictureFile(dataset, name, root / name, place) for place, name in enumerate(names)]
        found += pictures[: at_most or None]
    if not found:
        raise _error("", "name folders of test pictures, separated by commas")
    return found


def read_clean(path: pathlib.Path, channels: int) -> tuple[np.ndarray, str]:
    """A picture [H, W, channels] in [-1, 1], and a note of what was assumed or changed, else "".

    Raises:
      UnusableError: it is not a picture, too large or damaged, or does not tell its range.
      OSError: it cannot be read.
    """
    try:
        picture = read_picture(path)
    except UnusableError as error:
        if error.parameter != "range":
            raise
        remedy = "the benchmark takes no range, so save it as a picture of 8 or 16 bits"
        raise UnusableError(f"{str(error).partition(': ')[0]}: {remedy}") from error
    image, notes = picture.pixels, [note.text for note in picture.notes]
    if image.shape[-1] == channels:
        return image, "; ".join(notes)
    if channels == 1:
        return luma(image), "; ".join([*notes, COLOUR_IN_GRAY])
    return np.repeat(image, channels, -1), "; ".join([*notes, GRAY_IN_COLOUR])


def draw_noise(seed: int, name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal noise of a picture, by its seed, its name without the ending, and its shape alone.

    It depends neither on other pictures nor on their order, and is the same at all noise levels up to its scale.
    """
    stem = pathlib.PurePath(name).with_suffix("").as_posix()
    return np.random.default_rng([seed, *stem.encode(errors="surrogateescape")]).standard_normal(shape, np.float32)


def detail_corner(image: np.ndarray, side: int) -> tuple[int, int]:
    """The upper left corner of the square with most detail in a picture [H, W, C], on a grid of half its side.

    Detail is the squared difference of neighbouring pixels. A picture smaller than the square has its corner.
    """
    change = np.square(np.diff(image.mean(-1), axis=1))
    rows, columns = (range(0, max(length - side, 0) + 1, max(side // 2, 1)) for length in image.shape[:2])
    corners = [(row, column) for row in rows for column in columns]
    return max(corners, key=lambda at: change[at[0] : at[0] + side, at[1] : at[1] + side].sum())


def _error(value: str, remedy: str) -> InputError:
    return InputError(f"config.benchmark.folders = {value!r}: {remedy}")
