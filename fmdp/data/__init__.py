"""Images in, batches out: sources, their fixed train/test split, and the grain pipeline over them."""

import functools
import hashlib
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import grain
import jax
import numpy as np
import scipy.fft
from jaxtyping import Float
from ml_collections import ConfigDict

from fmdp.data import idx
from fmdp.errors import InputError
from fmdp.exact import Gaussian, GaussianMixture

DRAWING_SEED = 0xDA7A  # far from the seeds people give runs, whose noise must not repeat the data's


class Split(NamedTuple):
    """The images of a run, float32 NHWC, and what is known of where they come from.

    Attributes:
      train, test: images; real ones are in [-1, 1].
      train_labels, test_labels: the classes by which they were split, all zero where there are none.
      hash: names which images are held out, or that they were drawn from `target`.
      target: the distribution of the images, where it is known.
    """

    train: Float[np.ndarray, "n h w c"]
    test: Float[np.ndarray, "m h w c"]
    train_labels: np.ndarray
    test_labels: np.ndarray
    hash: str
    target: Gaussian | GaussianMixture | None = None


def load(config: ConfigDict) -> Split:
    """The images that config.data names, split once and for all: the split never depends on the seed of a run.

    Real images are split by class; from a known distribution, training and test images are drawn apart.

    Raises:
      InputError: the source is not known, or has too few images to split.
    """
    if config.source == "digits":
        return split(*digits(), config.test_share)
    if config.source == "idx":
        return official(idx.load(located(config)), config.test_images)
    if config.source not in TARGETS:
        raise InputError(f"config.data.source = {config.source!r}: must be one of digits, idx, {', '.join(TARGETS)}")
    target = TARGETS[config.source](config)
    train_key, test_key = jax.random.split(jax.random.key(DRAWING_SEED))
    evenly = {"stratified": True} if isinstance(target, GaussianMixture) else {}
    train = target.sample(train_key, config.samples, **evenly)
    test = target.sample(test_key, config.test_samples, **evenly)
    labels = np.zeros(len(train), int), np.zeros(len(test), int)
    return Split(np.asarray(train), np.asarray(test), *labels, "drawn from the target", target)


def gaussian(config: ConfigDict) -> Gaussian:
    """A Gaussian over 8x8 images with mean variance 1/4 and the spectrum config.spectrum.

    `power_law` gives the k-th cosine wave, ordered by frequency, a variance proportional to 1/k; `isotropic` gives all
    the same.

    Raises:
      InputError: the spectrum is not known.
    """
    side, variance = 8, 0.25
    mean = np.zeros((side, side, 1))
    if config.spectrum == "isotropic":
        return Gaussian(mean, variance)
    if config.spectrum != "power_law":
        raise InputError(f"config.data.spectrum = {config.spectrum!r}: must be one of isotropic, power_law")
    waves = scipy.fft.idct(np.eye(side), axis=0, norm="ortho")
    basis = np.kron(waves, waves)
    order = np.argsort(np.add.outer(np.arange(side) ** 2, np.arange(side) ** 2).ravel(), kind="stable")
    spectrum = np.empty(side**2)
    spectrum[order] = 1 / np.arange(1, side**2 + 1)
    return Gaussian(mean, basis * (variance * spectrum / spectrum.mean()) @ basis.T)


def mixture(config: ConfigDict) -> GaussianMixture:
    """Two Gaussians in the plane, of standard deviation .35 about (4.5, 3.5) and (3.5, 5.5)."""
    return GaussianMixture(
        np.ones(2), np.array([[4.5, 3.5], [3.5, 5.5]]), np.tile(0.35**2 * np.eye(2), (2, 1, 1)), (1, 1, 2)
    )


def digits_model(config: ConfigDict) -> GaussianMixture:
    """The mixture of config.components Gaussians fitted to the training digits."""
    return GaussianMixture.fit(split(*digits(), config.test_share).train, config.components)


TARGETS: dict[str, Callable[[ConfigDict], Gaussian | GaussianMixture]] = {
    "gaussian": gaussian,
    "mixture": mixture,
    "digits_model": digits_model,
}
"""The sources that are known distributions."""


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's bundled 1,797 handwritten digits: images [n, 8, 8, 1] in [-1, 1] and their classes."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return (bundle.images[..., None] / 8 - 1).astype(np.float32), bundle.target


def split(images: np.ndarray, labels: np.ndarray, test_share: float) -> Split:
    """Hold out test_share of every class, drawn by a fixed seed.

    Raises:
      InputError: there are too few images for both parts.
    """
    rng = np.random.default_rng(0)
    held_out = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: round(test_share * len(members))])
    test = np.sort(np.concatenate([*held_out, np.empty(0, int)])).astype(np.int64)
    if len(test) == 0 or len(test) == len(images):
        raise InputError(f"{len(images)} images and test_share = {test_share} leave nothing to train or to test on")
    train = np.delete(np.arange(len(images)), test)
    return Split(
        images[train], images[test], labels[train], labels[test], hashlib.sha256(test.tobytes()).hexdigest()[:16]
    )


def located(config: ConfigDict) -> pathlib.Path:
    """The path config.path.

    Raises:
      InputError: nothing is there.
    """
    path = pathlib.Path(config.path).expanduser()
    if not config.path or not path.exists():
        remedy = f"{config.origin}, or name another path" if config.origin else "name a path that exists"
        raise InputError(f"config.data.path = {config.path!r} does not exist: {remedy}")
    return path


def official(parts: dict[str, tuple[np.ndarray, np.ndarray]], test_images: int) -> Split:
    """The split that a data set comes with, of uint8 images; of its test part at most `test_images` (0: all).

    Those are drawn class by class, by a fixed seed.
    """
    (train, train_labels), (test, test_labels) = parts["train"], parts["test"]
    chosen = subset(test_labels, test_images)
    test, test_labels = test[chosen], test_labels[chosen]
    name = hashlib.sha256(test.tobytes()).hexdigest()[:16]
    return Split(to_float(train), to_float(test), train_labels, test_labels, name)


def to_float(images: np.ndarray) -> np.ndarray:
    """Images of bytes as float32 in [-1, 1]."""
    return images.astype(np.float32) / np.float32(127.5) - 1


def subset(labels: np.ndarray, size: int) -> np.ndarray:
    """Which `size` of the examples to take (0, or more than there are: all), of each class its share, in order."""
    if size == 0 or size >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(0)
    by_class = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    # Every class in evenly spaced places of one line: any start of the line holds each class by its share.
    places = np.concatenate([(np.arange(len(members)) + 0.5) / len(members) for members in by_class])
    return np.sort(np.concatenate(by_class)[np.argsort(places, kind="stable")[:size]])


class ShuffledBatches(grain.sources.RandomAccessDataSource):
    """Batch k of an endless sequence over an in-memory array, every epoch in an order of its own.

    Whole batches are the records: gathering rows one by one in Python costs more than a training step of a small
    network. Of each global batch a process reads its own rows, so the sequence is the same for any number of processes.
    """

    def __init__(self, images: np.ndarray, batch_size: int, seed: int, rows: np.ndarray):
        """The given rows of batches of `batch_size` out of images [n, H, W, C], shuffled by `seed`."""
        self._images, self._batch_size, self._rows = images, batch_size, rows
        self._order = functools.lru_cache(maxsize=4)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(len(images))
        )

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, k) -> np.ndarray:
        epochs, offsets = np.divmod(int(k) * self._batch_size + self._rows, len(self._images))
        index = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            index[epochs == epoch] = self._order(int(epoch))[offsets[epochs == epoch]]
        return self._images[index]


def diagonal_count(batch_size: int, share: float, devices: int) -> int:
    """How many examples of a batch train the diagonal, a multiple of the devices as near to `share` as can be."""
    return devices * round(share * batch_size / devices)


def batches(
    images: np.ndarray,
    batch_size: int,
    diagonal: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> grain.DatasetIterator:
    """An endless, resumable iterator over training batches.

    A batch has two parts, `diagonal` and `off_diagonal`, because slicing one sharded array in two would move data
    between devices. Each part holds `image` [b, H, W, C] and `row` [b], the position of the example in the
    global batch, from which its noise and times are drawn.

    Args:
      images: [n, H, W, C].
      batch_size: of the whole batch over all processes.
      diagonal: how many of them train the diagonal.
      seed: of the order of the images.
      process, processes: the share of this process.

    Raises:
      InputError: there are no images.
    """
    if len(images) == 0:
        raise InputError("the data source is empty: there is no image to train on")
    rows = np.arange(batch_size)
    mine = [np.split(part, processes)[process].astype(np.int32) for part in (rows[:diagonal], rows[diagonal:])]

    def parts(image):
        names = ("diagonal", "off_diagonal")
        images = np.split(image, [len(mine[0])])
        return {name: {"image": x, "row": row} for name, x, row in zip(names, images, mine, strict=True)}

    source = ShuffledBatches(images, batch_size, seed, np.concatenate(mine))
    dataset = grain.MapDataset.source(source).map(parts)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))
