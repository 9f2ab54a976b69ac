"""The official split and the classes, from the names of picture files."""

import re
from collections.abc import Callable, Sequence
from io import BufferedIOBase

import numpy as np

from fmdp.data.decoding import ImageFiles

TEST = ("test", "val", "valid", "validation")


def arrange(names: Sequence[str], opener: Callable[[str], BufferedIOBase]) -> tuple[ImageFiles, ImageFiles | None]:
    """The training and the held-out files of an official split; without one, all files and None.

    If the top-level folders are `train` and one of TEST, these are the two parts, and everything beside them is
    ignored. The class of a file is its topmost folder (within its part). Folders named by five digits, which StyleGAN's
    tools fill one after another, are not classes.

    Args:
      names: of the files, such as a/b/c.png.
      opener: opens the file of a name.
    """
    tops = {name.split("/")[0] for name in names if "/" in name}
    test = next((top for top in TEST if top in tops), None)
    if "train" not in tops or test is None:
        return ImageFiles(names, _classes(names, 0), opener), None
    train, held_out = ([name for name in names if name.startswith(f"{top}/")] for top in ("train", test))
    return ImageFiles(train, _classes(train, 1), opener), ImageFiles(held_out, _classes(held_out, 1), opener)


def _classes(names: Sequence[str], depth: int) -> np.ndarray:
    """The classes [n] of names below folders of this depth, numbered in alphabetical order."""
    folders = [name.split("/")[depth:-1] for name in names]
    tops = [parts[0] if parts and not re.fullmatch(r"\d{5}", parts[0]) else "" for parts in folders]
    return np.unique(np.array(tops, dtype=np.str_), return_inverse=True)[1]
