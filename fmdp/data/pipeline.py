"""Training batches: endless, shuffled, resumable, and the same for any number of processes and workers."""

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
    """Batch k of an endless sequence over a set of images, in a new order every epoch.

    The records are complete batches, because gathering rows one by one in Python would take longer than a training step
    of a small network. A process reads only its own rows of each global batch, so that the sequence is the same for any
    number of processes.
    """

    def __init__(self, images: Images, batch_size: int, seed: int, rows: np.ndarray, flip: bool = False):
        """The given rows of batches of `batch_size` images from [n, H, W, C], shuffled (and flipped) by `seed`."""
        self._images, self._batch_size, self._seed, self._rows, self._flip = images, batch_size, seed, rows, flip

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, k) -> np.ndarray:
        index, flipped = self.records(k)
        images = self._images[index]
        images[flipped] = images[flipped, :, ::-1]
        return images

    def records(self, k) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the images in batch k, and whether each is flipped; [b] each."""
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
def _signals_blocked_in_children() -> Iterator[None]:
    """Processes that any thread starts in this block ignore SIGINT and SIGTERM, which Ctrl-C and SLURM send to all.

    A run that is asked to stop still needs its workers to complete the current step.
    """
    resource_tracker.ensure_running()  # its start would unblock the signals
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
    """The records of a grain dataset; the state is the index of the next one, whatever workers read them.

    The state that grain keeps of a pipeline with worker processes depends on their number, so that it could not be
    resumed with another one.
    """

    def __init__(self, dataset: grain.MapDataset, read: grain.ReadOptions, workers: int):
        """Records read by the threads of `read` in this process, or by `workers` processes."""
        super().__init__()
        self._dataset, self._read, self._workers = dataset, read, workers
        self._next = 0
        self._records: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        try:
            if self._records is None:
                with _signals_blocked_in_children() if self._workers else contextlib.nullcontext():
                    self._records = self._start()
                    record = next(self._records)  # grain starts them here
            else:
                record = next(self._records)
        except RuntimeError as error:
            if not self._workers or "terminated" not in str(error):
                raise
            self.close()
            why = str(error).partition(".")[0]
            raise InputError(
                f"a process that reads pictures ended unexpectedly ({why}): if memory ran out, lower"
                f" config.data.workers = {self._workers}; the same command resumes from the latest checkpoint"
            ) from error
        self._next += 1
        return record

    def _start(self) -> grain.DatasetIterator:
        rest = self._dataset[self._next :].to_iter_dataset(self._read)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain passes its flags to the workers; in a notebook they are not parsed
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(self._workers, self._read.prefetch_buffer_size)
            rest = rest.mp_prefetch(options, _end_with_parent)
        return iter(rest)

    def get_state(self) -> dict[str, int]:
        """The position of the iterator, as plain JSON."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue from the position of this state."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Stop the threads and processes; reading the next record starts them again."""
        if self._records is not None:
            self._records.close()
            self._records = None


def diagonal_count(batch_size: int, share: float, devices: int) -> int:
    """How many examples of a batch train the diagonal: the multiple of `devices` that is closest to `share`."""
    return devices * round(share * batch_size / devices)


def _parts(rows: Sequence[np.ndarray], images: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    names, parts = ("diagonal", "off_diagonal"), np.split(images, [len(rows[0])])
    return {name: {"image": x, "row": row} for name, x, row in zip(names, parts, rows, strict=True)}


def records(images: Images, batch_size: int, seed: int, k: int) -> np.ndarray:
    """The indices of the images in batch k (from 0) of `batches`, over all processes, [batch_size]."""
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
    between devices. Each part holds `image` [b, H, W, C] and `row` [b], the position of the example in the global
    batch, which determines its noise and times.

    Args:
      images: [n, H, W, C].
      batch_size: of the global batch, over all processes.
      diagonal: how many of these examples train the diagonal.
      seed: of the order of the images.
      process, processes: index of this process, and their number.
      flip: mirror every example left to right with probability 1/2.
      workers: processes that decode pictures which are not kept in memory; 0 means threads.

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
