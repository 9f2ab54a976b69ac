"""IDX files, the format of MNIST and its successors, plain or gzipped, with their official split."""

import math
import pathlib
import zlib

import numpy as np

from fmdp.data.containers import Examples, RawDataset, UInt8Images
from fmdp.errors import InputError, translating
from fmdp.io.archives import gunzip

FILES = {
    part: {kind: f"{name}-{kind}-idx{axes}-ubyte" for kind, axes in (("images", 3), ("labels", 1))}
    for part, name in (("train", "train"), ("test", "t10k"))
}
UNSIGNED_BYTE = 8
REMEDY = "download it again"


def read_idx(path: pathlib.Path) -> np.ndarray:
    """The uint8 array in an IDX file, which is compressed if its name ends in .gz.

    The format: two zero bytes, the type of the numbers, the number of axes, the length of each axis as a big-endian
    32-bit integer, and the numbers.

    Raises:
      InputError: it cannot be read, is not an IDX file, or does not have the length that its header states.
    """
    with translating(lambda why: f"{path} cannot be read ({why}): {REMEDY}", OSError, EOFError, zlib.error):
        content = gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise InputError(f"{path} is not an IDX file of unsigned bytes: {REMEDY}")
    start = 4 + 4 * content[3]
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if not shape or len(content) - start != math.prod(shape):
        raise InputError(f"{path} holds {len(content)} bytes, which its header {shape} contradicts: {REMEDY}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_folder(folder: pathlib.Path) -> RawDataset:
    """The images [n, 28, 28, 1] and classes in a folder with the four IDX files, with their official split.

    Raises:
      InputError: a file is missing or damaged, or the numbers of classes and images differ.
    """
    parts = []
    for part, names in FILES.items():
        images, labels = (read_idx(find_idx_file(folder, names[kind])) for kind in ("images", "labels"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise InputError(f"{folder}: {part} images of shape {images.shape} with classes of shape {labels.shape}")
        numbered = [f"{part}/{i}" for i in range(len(images))]
        parts.append(Examples(UInt8Images(images[..., None]), labels.astype(int), numbered))
    return RawDataset(parts[0], parts[1])


def find_idx_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of this name, or of this name with .gz.

    Raises:
      InputError: neither exists.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    hint = "(for a folder of pictures, set config.data.source=folder)"
    raise InputError(f"{folder} holds no {name} or {name}.gz: all four IDX files are needed {hint}")
