"""Training batches: endless, shuffled, resumable, the same for any number of processes and workers."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import grain
import numpy as np
from absl import flags

from fmdp.data.containers import Images
from fmdp.data.decoding import LazyImages
from fmdp.errors import InputError


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


@functools.lru_cache(maxsize=4)
def _coins(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 1)).random(size) < 0.5


class ShuffledBatches(grain.sources.RandomAccessDataSource):
    """Batch k of an endless sequence over a set of images, every epoch in an order of its own.

    Whole batches are the records: gathering rows one by one in Python costs more than a training step of a small
    network. Of each global batch a process reads its own rows, so the sequence is the same for any number of processes.
    """

    def __init__(self, images: Images, batch_size: int, seed: int, rows: np.ndarray, flip: bool = False):
        """The given rows of batches of `batch_size` out of images [n, H, W, C], shuffled (and flipped) by `seed`."""
        self._images, self._batch_size, self._seed, self._rows, self._flip = images, batch_size, seed, rows, flip

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, k) -> np.ndarray:
        index, flipped = self.records(k)
        images = self._images[index]
        images[flipped] = images[flipped, :, ::-1]
        return images

    def records(self, k) -> tuple[np.ndarray, np.ndarray]:
        """Which images batch k consists of, and which of them are flipped; [b] each."""
        size = len(self._images)
        epochs, offsets = np.divmod(int(k) * self._batch_size + self._rows, size)
        index, flipped = np.empty_like(offsets), np.zeros(len(offsets), bool)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = _order(self._seed, int(epoch), size)[offsets[here]]
            if self._flip:
                flipped[here] = _coins(self._seed, int(epoch), size)[offsets[here]]
        return index, flipped


@contextlib.contextmanager
def _unseen_by_children() -> Iterator[None]:
    """Processes started in here, by whatever thread, do not get SIGINT and SIGTERM, which Ctrl-C and SLURM send to all.

    A run that is asked to end still needs its workers for the step at hand.
    """
    resource_tracker.ensure_running()  # which at its start would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(*_: int) -> None:
    """End this worker when its parent process has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Batches(grain.DatasetIterator):
    """Records of a grain dataset from the first on; the state is the number of the next one, whoever reads them.

    grain's own state of a pipeline with worker processes names the workers, so that it could not be resumed with
    another number of them.
    """

    def __init__(self, dataset: grain.MapDataset, read: grain.ReadOptions, workers: int):
        """Read in this process by the threads of `read`, or in `workers` processes of their own."""
        super().__init__()
        self._dataset, self._read, self._workers = dataset, read, workers
        self._next = 0
        self._records: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        try:
            if self._records is None:
                with _unseen_by_children() if self._workers else contextlib.nullcontext():
                    self._records = self._start()
                    record = next(self._records)  # only now grain starts them
            else:
                record = next(self._records)
        except RuntimeError as error:
            if not self._workers or "terminated" not in str(error):
                raise
            self.close()
            said = str(error).partition(".")[0]
            raise InputError(
                f"a process that reads pictures ended by itself ({said}): where it wanted for memory, lower"
                f" config.data.workers = {self._workers}; started again, the run goes on from its checkpoint"
            ) from error
        self._next += 1
        return record

    def _start(self) -> grain.DatasetIterator:
        rest = self._dataset[self._next :].to_iter_dataset(self._read)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain hands its flags on to the workers; in a notebook nobody parsed them
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(self._workers, self._read.prefetch_buffer_size)
            rest = rest.mp_prefetch(options, _end_with_parent)
        return iter(rest)

    def get_state(self) -> dict[str, int]:
        """Where the iterator is, as plain JSON."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on where the state was taken."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """End the threads and processes; the next record starts them anew."""
        if self._records is not None:
            self._records.close()
            self._records = None


def diagonal_count(batch_size: int, share: float, devices: int) -> int:
    """How many examples of a batch train the diagonal, a multiple of the devices as near to `share` as can be."""
    return devices * round(share * batch_size / devices)


def _parts(rows: Sequence[np.ndarray], images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    names, parts = ("diagonal", "off_diagonal"), np.split(images, [len(rows[0])])
    return {name: {"image": x, "row": row} for name, x, row in zip(names, parts, rows, strict=True)}


def records(images: Images, batch_size: int, seed: int, k: int) -> np.ndarray:
    """Which of the images batch k (from 0) of `batches` consists of, over all processes, [batch_size]."""
    return ShuffledBatches(images, batch_size, seed, np.arange(batch_size)).records(k)[0]


def batches(
    images: Images,
    batch_size: int,
    diagonal: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    flip: bool = False,
    workers: int = 0,
) -> Batches:
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
      flip: turn every example left to right, or not, by a coin for its place in the epoch.
      workers: processes that decode pictures, where they are not kept in memory; 0 is for threads.

    Raises:
      InputError: there are no images.
    """
    if len(images) == 0:
        raise InputError("the data source is empty: there is no image to train on")
    rows = np.arange(batch_size)
    mine = [np.split(part, processes)[process].astype(np.int32) for part in (rows[:diagonal], rows[diagonal:])]
    source = ShuffledBatches(images, batch_size, seed, np.concatenate(mine), flip)
    dataset = grain.MapDataset.source(source).map(functools.partial(_parts, mine))
    if not isinstance(images, LazyImages):
        return Batches(dataset, grain.ReadOptions(num_threads=1, prefetch_buffer_size=8), 0)
    if images.kept or not workers:
        threads = min(8, os.cpu_count() or 1)
        return Batches(dataset, grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8), 0)
    return Batches(dataset, grain.ReadOptions(num_threads=1, prefetch_buffer_size=2), workers)
