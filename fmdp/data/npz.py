"""npz files with arrays of images and, optionally, their classes."""

import pathlib
from collections.abc import Mapping

import numpy as np

from fmdp.data.containers import Examples, RawDataset, UInt8Images
from fmdp.errors import InputError, translating
from fmdp.io.archives import load_npz

IMAGES = {"train": ("train_images", "x_train", "images", "x", "arr_0"), "test": ("test_images", "x_test")}
LABELS = {"train": ("train_labels", "y_train", "labels", "y", "arr_1"), "test": ("test_labels", "y_test")}


def read_npz(path: pathlib.Path) -> RawDataset:
    """The images in an npz file, [n, H, W, C] or [n, H, W], and their classes [n] (or [n, 1]) if it has them.

    The first name of IMAGES and of LABELS that exists is used. Test images, if there are any, are the held-out ones.

    Raises:
      InputError: it cannot be read, has none of the names, or an array has another type, range or shape.
    """
    known = {name for names in (IMAGES, LABELS) for part in names.values() for name in part}
    with translating(lambda why: f"{path}: {why}: save it again with np.savez", InputError):
        arrays = load_npz(path, known.__contains__)
    train, test = (_examples(path, arrays, part) for part in ("train", "test"))
    if train is None:
        raise InputError(f"{path} has no array of images: name it one of {', '.join(IMAGES['train'])}")
    shapes = [part.images.shape[1:] for part in (train, test or train)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{path}: training and test images have different shapes, {shapes[0]} and {shapes[1]}")
    return RawDataset(train, test)


def _examples(path: pathlib.Path, arrays: Mapping[str, np.ndarray], part: str) -> Examples | None:
    name = next((name for name in IMAGES[part] if name in arrays), None)
    if name is None:
        return None
    images = arrays[name]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{path}: {name} has shape {images.shape}, not [n, H, W], [n, H, W, 1] or [n, H, W, 3]")
    scaled = np.issubdtype(images.dtype, np.floating) and np.abs(images).max() <= 1
    if images.dtype != np.uint8 and not scaled:
        raise InputError(f"{path}: {name} must hold bytes (0 to 255) or floats from -1 to 1, not {images.dtype}")
    images = images.astype(np.float32) if scaled else images
    label = next((name for name in LABELS[part] if name in arrays), None)
    labels = np.zeros(len(images), int) if label is None else arrays[label].reshape(-1)
    if len(labels) != len(images) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: {label} must hold one integer for each of the {len(images)} images")
    names = [f"{part}/{i}" for i in range(len(images))]
    return Examples(images if images.dtype == np.float32 else UInt8Images(images), labels.astype(int), names)
