"""Which images are held out. The split is fixed: it never depends on the seed of a run."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fmdp.data.containers import Examples, Images, RawDataset, take
from fmdp.errors import InputError
from fmdp.exact import Gaussian, GaussianMixture
from fmdp.io.files import read_json, write_json


class Split(NamedTuple):
    """The images of a run, float32 NHWC, and their origin.

    Attributes:
      train, test: images; real ones are in [-1, 1]. Training images may be read on demand. Test images are in
        `mixed_order`, because measurements take the first of them.
      train_labels, test_labels: the classes by which they were split, all zero if there are none.
      hash: identifies the training and the held-out images, or says that they were drawn from `target`.
      target: the distribution of the images, if it is known.
      held_out: the names of all held-out images; `test` may be a part of them.
      left_out: one line for each image that could not be used.
    """

    train: Images
    test: Float[np.ndarray, "m h w c"]
    train_labels: np.ndarray
    test_labels: np.ndarray
    hash: str
    target: Gaussian | GaussianMixture | None = None
    held_out: Sequence[str] = ()
    left_out: Sequence[str] = ()


def split(images: np.ndarray, labels: np.ndarray, test_share: float) -> Split:
    """Hold out test_share of every class of images in memory, drawn with a fixed seed; their names are their indices.

    Raises:
      InputError: there are too few images for both parts.
    """
    return hold_out(RawDataset(Examples(images, labels, [str(i) for i in range(len(images))])), test_share, 0)


def hold_out(found: RawDataset, test_share: float, test_images: int) -> Split:
    """The official split of a source or, if it has none, a split with test_share of every class held out.

    Args:
      test_share: the share of each class that is held out.
      test_images: the largest number of test images, which represent every class by its share; 0 means all.

    Raises:
      InputError: there are too few images for both parts.
    """
    train, test, left_out = found
    if test is None:
        index = held_out(train.labels, test_share)
        train, test = train.take(np.delete(np.arange(len(train.labels)), index)), train.take(index)
    if not len(train.names) or not len(test.names):
        counts = f"{len(train.names)} images to train and {len(test.names)} to test on"
        raise InputError(f"the split leaves {counts}: add images, or change config.data.test_share = {test_share}")
    lists = "\0".join("\n".join(part.names) for part in (train, test))
    name = hashlib.sha256(lists.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    index = subset(test.labels, test_images)
    measured = test.take(index[mixed_order(test.labels[index])])
    return Split(
        train.images, measured.images[:], train.labels, measured.labels, name, None, test.names, left_out
    )  # fmt: skip


def held_out(labels: np.ndarray, share: float) -> np.ndarray:
    """The sorted indices of the examples to hold out: `share` of every class, drawn with a fixed seed.

    Classes that are too small to give one example are treated together as one class.
    """
    kinds, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    labels = np.where(np.round(share * counts) > 0, np.arange(len(kinds)), len(kinds))[index]
    rng = np.random.default_rng(0)
    chosen = [np.empty(0, int)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: round(share * len(members))])
    return np.sort(np.concatenate(chosen))


def subset(labels: np.ndarray, size: int) -> np.ndarray:
    """The sorted indices of `size` examples that represent every class by its share; all if size is 0 or too large."""
    if size == 0 or size >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(0)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    # With every class spread evenly over one line, any beginning of the line holds each class by its share.
    places = np.concatenate([(np.arange(len(m)) + 0.5) / len(m) for m in members])
    return np.sort(np.concatenate(members)[np.argsort(places, kind="stable")[:size]])


def mixed_order(labels: np.ndarray) -> np.ndarray:
    """The indices of examples in an order of which the first few represent all.

    Examples that lie class by class, as the files of folders do, are put into a fixed random order. All others stay.
    """
    by_class = np.count_nonzero(np.diff(labels)) + 1 == len(np.unique(labels)) > 1
    return np.random.default_rng(0).permutation(len(labels)) if by_class else np.arange(len(labels))


def set_aside(images: Images, count: int, seed: int) -> tuple[Images, np.ndarray, np.ndarray]:
    """Training images [n, H, W, C] without `count` of them, drawn by the seed, on which choices are made.

    Returns:
      The images that are trained on; those set aside, [count, H, W, C]; and which of the n the former are.

    Raises:
      InputError: fewer than half of the images would be left.
    """
    n = len(images)
    if 2 * count > n:
        remedy = f"must leave at least half of the {n} training images to train on"
        raise InputError(f"config.train.validation_images = {count}: {remedy}")
    if not count:
        return images, np.empty((0, *images.shape[1:]), np.float32), np.arange(n)
    order = np.random.default_rng((seed, 0, 2)).permutation(n)
    aside, rest = np.sort(order[:count]), np.sort(order[count:])
    return take(images, rest), images[aside], rest


def pin_split(split: Split, path: pathlib.Path) -> None:
    """Record as JSON which images are held out, so that the run never trains on them or evaluates on others.

    Raises:
      InputError: the run began with another split.
    """
    if path.exists():
        began = read_json(path).get("hash")
        if began != split.hash:
            remedy = "name another --workdir, or restore the former images"
            raise InputError(f"{path} is of a run on other images (split {began}, now {split.hash}): {remedy}")
    lists = {"held_out": list(split.held_out), "left_out": list(split.left_out)}
    facts = {"hash": split.hash, "train_images": len(split.train), "image_shape": list(split.train.shape[1:])}
    write_json(path, facts | lists)
