"""Images in, batches out: sources, their fixed train/test split, and the grain pipeline over them."""

import functools
import hashlib
import sys
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from fmdp.errors import InputError

Batch = dict[str, dict[str, np.ndarray]]


class Split(NamedTuple):
    """The images of a run, float32 NHWC in [-1, 1], and a hash that names which of them are held out."""

    train: Float[np.ndarray, "n h w c"]
    test: Float[np.ndarray, "m h w c"]
    hash: str


def load(config: ConfigDict, seed: int = 0) -> Split:
    """The images that config.data names, split once and for all.

    The split is stratified by class and depends on config.data alone, never on the seed of a run.

    Raises:
      InputError: the source is not known, or has too few images to split.
    """
    sources = {"digits": digits}
    if config.source not in sources:
        raise InputError(f"config.data.source = {config.source!r}: must be one of {', '.join(sources)}")
    images, labels = sources[config.source]()
    return split(images, labels, config.test_share)


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
    return Split(images[train], images[test], hashlib.sha256(test.tobytes()).hexdigest()[:16])


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
