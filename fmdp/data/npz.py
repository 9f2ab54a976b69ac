"""npz and npy files with arrays of images and, optionally, their classes."""

import pathlib
from collections.abc import Mapping

import numpy as np
from absl import logging

from fmdp.data.arrays import scale_arrays
from fmdp.data.containers import Examples, Images, RawDataset
from fmdp.errors import InputError, translating
from fmdp.io.archives import load_npy, load_npz
from fmdp.io.levels import Range, find_range, layout_remedy, require_numbers

IMAGES = {"train": ("train_images", "x_train", "images", "x", "arr_0"), "test": ("test_images", "x_test")}
LABELS = {"train": ("train_labels", "y_train", "labels", "y", "arr_1"), "test": ("test_labels", "y_test")}


def read_npz(path: pathlib.Path, stated: Range | None = None, channels: int = 3) -> RawDataset:
    """The images in an npz or npy file, [n, H, W, C] or [n, H, W], and their classes [n] (or [n, 1]) if it has them.

    The first name of IMAGES and of LABELS that exists is used. Test images, if there are any, are the held-out ones.

    Args:
      stated: the values of black and white; without it the training images tell them (`levels.find_range`).
      channels: 1 takes the luma of colour.

    Raises:
      InputError: it cannot be read, has none of the names, or an array has another type, range or shape.
    """
    if path.suffix.lower() == ".npy":
        return _read_parts(path, {"images": _read_npy(path)}, stated, channels)
    known = {name for names in (IMAGES, LABELS) for part in names.values() for name in part}
    with translating(lambda why: f"{path}: {why}: save it again with np.savez", InputError):
        arrays = load_npz(path, known.__contains__)
    return _read_parts(path, arrays, stated, channels)


def _read_npy(path: pathlib.Path) -> np.ndarray:
    with (
        translating(lambda why: f"{path}: {why}: save it again with np.save", OSError, InputError),
        path.open("rb") as file,
    ):
        return load_npy(file)


def _read_parts(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], stated: Range | None, channels: int
) -> RawDataset:
    named = {part: next((name for name in IMAGES[part] if name in arrays), None) for part in IMAGES}
    names = [name for name in named.values() if name is not None]
    if named["train"] is None:
        raise InputError(f"{path} has no array of images: name it one of {', '.join(IMAGES['train'])}")
    pixels = [_pixels(path, name, arrays[name]) for name in names]
    if len({x.shape[1:] for x in pixels}) > 1:
        shapes = " and ".join(str(x.shape[1:]) for x in pixels)
        raise InputError(f"{path}: training and test images have different shapes, {shapes}")
    setting = f"config.data.range = {tuple(stated or ())}"
    with translating(lambda why: f"{path}: {names[0]}: {why} ({setting})", InputError):
        taken = find_range(pixels[0], stated, limit=1.0)
        if taken.said:
            logging.warning("%s: %s: %s (%s)", path, names[0], taken.said, setting)
        images = scale_arrays(pixels, taken.range, channels)
    parts = [_examples(path, arrays, part, x) for part, x in zip(("train", "test"), images, strict=False)]
    return RawDataset(parts[0], parts[1] if parts[1:] else None)


def _pixels(path: pathlib.Path, name: str, images: np.ndarray) -> np.ndarray:
    """The images of an array as [n, H, W, 1 or 3], of finite numbers."""
    pixels = images[..., None] if images.ndim == 3 else images
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        remedy = (pixels.ndim == 4 and layout_remedy(pixels.shape)) or "save [n, H, W], [n, H, W, 1] or [n, H, W, 3]"
        raise InputError(f"{path}: {name} has shape {images.shape}: {remedy}")
    with translating(lambda why: f"{path}: {name}: {why}", InputError):
        require_numbers(pixels)
    return pixels


def _examples(path: pathlib.Path, arrays: Mapping[str, np.ndarray], part: str, images: Images) -> Examples:
    label = next((name for name in LABELS[part] if name in arrays), None)
    labels = np.zeros(len(images), int) if label is None else arrays[label].reshape(-1)
    if len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: {label} must hold one integer for each of the {len(images)} images")
    return Examples(images, labels.astype(int), [f"{part}/{i}" for i in range(len(images))])
