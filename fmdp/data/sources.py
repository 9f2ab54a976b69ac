"""The images that config.data names, as a split into training and test images."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from fmdp.data import folder, idx, npz, synthetic, tfds, zip_archive
from fmdp.data.containers import Examples, RawDataset
from fmdp.data.crops import RandomCrops
from fmdp.data.decoding import FORMATS, Fault, ImageFiles, ImagePreprocessor, LazyImages, inspect
from fmdp.data.sklearn_digits import digits
from fmdp.data.splits import Split, hold_out, split
from fmdp.errors import InputError
from fmdp.io.files import expand_path
from fmdp.io.levels import Range, range_fault

MAX_NAMED = 10  # of the files left out are named in a warning, the others counted


def load_split(config: ConfigDict) -> Split:
    """The images that config.data names, with a split that never depends on the seed of a run.

    An official split is kept. Other real images are split class by class. From a known distribution, training and test
    images are drawn separately. Without config.source, the path decides: a folder of IDX files, any other folder (of
    pictures), a .zip (of pictures), an .npz or an .npy.

    Raises:
      InputError: the source is unknown, does not exist or cannot be read, or has too few images to split.
    """
    if config.source == "digits":
        _require_pictures(config, "digits")
        return split(*digits(), config.test_share)
    if config.source in synthetic.TARGETS:
        _require_pictures(config, config.source)
        return synthetic.draw_split(config)
    if config.source not in ("", *SOURCES):
        known = ", ".join(["digits", *SOURCES, *synthetic.TARGETS])
        raise InputError(f"config.data.source = {config.source!r}: must be one of {known}, or empty to go by the path")
    path = expand_path(config.path)
    if not config.path or not path.exists():
        remedy = f"{config.download_hint}, or name another path" if config.download_hint else "name a path that exists"
        raise InputError(f"config.data.path = {config.path!r} does not exist: {remedy}")
    source = config.source or detect_source(path)
    _require_pictures(config, source)
    found = SOURCES[source](path, config)
    height, width = found.train.images.shape[1:3]
    if config.size and (height, width) != (config.size, config.size):
        raise InputError(f"config.data.size = {config.size}, but {path} holds images of {height}x{width}: set it to 0")
    return hold_out(found, config.test_share, config.test_images)


def stated_range(config: ConfigDict) -> Range | None:
    """config.data.range as (black, white), or None where it is empty."""
    stated = tuple(config.get("range", ()))  # a library's own dictionary may lack it
    if stated and (fault := range_fault(stated)):
        raise InputError(f"config.data.range = {stated}: {fault}")
    return (stated[0], stated[1]) if stated else None


def _require_pictures(config: ConfigDict, source: str) -> None:
    if stated_range(config) and source not in RANGED:
        needs = f"is of the files of {', '.join(RANGED)}, and {source} has a range of its own"
        raise InputError(f"config.data.range = {stated_range(config)}: {needs}: leave it out")
    if config.get("crop") == "random" and source not in PICTURES:  # a library's own dictionary may lack it
        needs = f"needs picture files, from one of {', '.join(PICTURES)}, and {source} has arrays"
        raise InputError(f"config.data.crop = 'random': {needs}: set it to center")


def detect_source(path: pathlib.Path) -> str:
    """The name in SOURCES of the source at a path.

    Raises:
      InputError: the path is not a source.
    """
    if path.is_dir():
        return "idx" if any(path.glob("train-images-idx3-ubyte*")) else "folder"
    if path.suffix.lower() not in (".zip", ".npz", ".npy"):
        found = "is neither a folder, nor a .zip, nor an .npz, nor an .npy"
        raise InputError(f"config.data.path = '{path}' {found}: name one")
    return {".npy": "npz"}.get(path.suffix.lower(), path.suffix.lower()[1:])


def from_pictures(
    find: Callable[[pathlib.Path], tuple[ImageFiles, ImageFiles | None]], path: pathlib.Path, config: ConfigDict
) -> RawDataset:
    """The image files that `find` finds at a path, decoded when they are indexed, and kept where memory allows.

    With config.crop = "random" they are `RandomCrops`, and whole pictures are kept.

    Raises:
      InputError: no image can be used, one cannot with config.strict, or config.size is not set.
    """
    if not config.size:
        raise InputError("config.data.size = 0: set the side length of the pictures in pixels, such as 64")
    preprocessor = ImagePreprocessor(
        size=config.size, channels=config.channels, max_pixels=config.max_pixels, range=stated_range(config)
    )
    files = [part for part in find(path) if part is not None]
    usable = [select_usable(part, preprocessor, path, config.strict) for part in files]
    make: Callable[..., LazyImages]
    if config.crop == "random":
        needed = sum(use.pixels for use in usable) * RandomCrops.bytes_per_pixel(config.channels)
        make = functools.partial(RandomCrops, min_scale=config.min_scale)
    else:
        needed = sum(len(part.names) for part in files) * config.size**2 * config.channels
        make = LazyImages
    parts: list[Examples] = []
    for part, use in zip(files, usable, strict=True):
        names = [part.names[i] for i in use.chosen]
        images = make(names=names, open=part.open, preprocessor=preprocessor, kept=needed <= config.memory_gb * 1e9)
        parts.append(Examples(images, part.labels[use.chosen], names))
    left_out = tuple(line for use in usable for line in use.left_out)
    return RawDataset(parts[0], parts[1] if parts[1:] else None, left_out)


class Usable(NamedTuple):
    """The indices of the files that can be used, their pixels together, and one line for each of the others."""

    chosen: np.ndarray
    pixels: int
    left_out: list[str]


def select_usable(files: ImageFiles, preprocessor: ImagePreprocessor, path: pathlib.Path, strict: bool) -> Usable:
    """Which of the files at a path can be used; a warning names the others.

    Args:
      strict: decode every file now, and refuse all of them for one that cannot be used.

    Raises:
      InputError: none can be used or, where `strict`, one cannot.
    """
    found = inspect(files, preprocessor, decode=strict)
    faults = {name: fault for name, fault in zip(files.names, found, strict=True) if isinstance(fault, Fault)}
    left_out = [f"{name!r}: {_reason(fault)}" for name, fault in faults.items()]
    if strict and left_out:
        raise InputError(f"{path}: {left_out[0]}; remove it, or set config.data.strict to False")
    if len(left_out) == len(found):
        first = f" ({left_out[0]})" if left_out else ""
        raise InputError(f"{path} holds no image that can be used{first}: files of {', '.join(FORMATS)} are")
    if left_out:
        more = f"; and {len(left_out) - MAX_NAMED} more" if len(left_out) > MAX_NAMED else ""
        listed = "; ".join(left_out[:MAX_NAMED]) + more
        logging.warning("%s: %d of %d images left out: %s", path, len(left_out), len(found), listed)
    pixels = [0 if isinstance(x, Fault) else x for x in found]
    return Usable(np.flatnonzero(pixels), sum(pixels), left_out)


def _reason(fault: Fault) -> str:
    """Why a file cannot be used, with the key of the configuration that decides it."""
    return f"{fault.reason} (config.data.{fault.parameter})" if fault.parameter else fault.reason


def from_folder(path: pathlib.Path, config: ConfigDict) -> RawDataset:
    """The pictures of a folder."""
    if not path.is_dir():
        raise InputError(f"config.data.path = '{path}' is not a folder: name one, or leave config.data.source empty")
    return from_pictures(folder.list_folder, path, config)


SOURCES: Mapping[str, Callable[[pathlib.Path, ConfigDict], RawDataset]] = {
    "idx": lambda path, config: idx.read_idx_folder(path),
    "npz": lambda path, config: npz.read_npz(path, stated_range(config), config.get("channels", 3)),
    "folder": from_folder,
    "zip": lambda path, config: from_pictures(zip_archive.list_zip, path, config),
    "tfds": lambda path, config: from_pictures(functools.partial(tfds.list_tfds, config.dataset), path, config),
}
"""The sources of real images at config.path."""

PICTURES = ("folder", "zip", "tfds")
"""The sources among them that read picture files, of any sizes."""

RANGED = ("npz", *PICTURES)
"""The sources among them whose numbers may have any range."""
