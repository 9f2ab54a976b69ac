"""Training batches: endless, shuffled, resumable, and the same for any number of processes and workers."""

import collections
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from fmdp.data.containers import Images, read_stored
from fmdp.data.crops import DRAWS, RandomCrops
from fmdp.data.decoding import LazyImages, ignore_metadata_warnings
from fmdp.errors import InputError

Placed = TypeVar("Placed")


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


@functools.lru_cache(maxsize=4)
def _coins(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 1)).random(size) < 0.5


@functools.lru_cache(maxsize=4)
def _crop_draws(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 3)).random((size, DRAWS))  # 2 sets images aside


@functools.lru_cache(maxsize=4)
def _quarter_turns(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 4)).integers(0, 4, size)


class ShuffledBatches(grain.sources.RandomAccessDataSource):
    """Batch k of an endless sequence over a set of images, in a new order every epoch.

    Whole batches are the records: gathering rows one by one in Python costs more than a training step of a small
    network. Each process reads its own rows of the global batch, so the sequence does not depend on their number.
    """

    def __init__(
        self, images: Images, batch_size: int, seed: int, rows: np.ndarray, flip: bool = False, turn: bool = False
    ):
        """The given rows of batches of `batch_size` images from [n, H, W, C], shuffled (flipped, turned) by `seed`."""
        self._images, self._batch_size, self._seed, self._rows = images, batch_size, seed, rows
        self._flip, self._turn = flip, turn

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, k) -> np.ndarray:
        index = self.records(k)
        if isinstance(self._images, RandomCrops):
            images = self._images.read_crops(index, self._drawn(_crop_draws, k))
        else:
            images = read_stored(self._images, index)
        if self._flip:
            flipped = self._drawn(_coins, k)
            images[flipped] = images[flipped, :, ::-1]
        if self._turn:
            turns = self._drawn(_quarter_turns, k)
            for count in range(1, 4):
                images[turns == count] = np.rot90(images[turns == count], count, (1, 2))
        return images

    def records(self, k) -> np.ndarray:
        """The indices of the images in batch k, [b]."""
        return self._drawn(_order, k)

    def _drawn(self, draw: Callable[[int, int, int], np.ndarray], k) -> np.ndarray:
        """What `draw`, of a seed, an epoch and the number of images, has for each row of batch k, [b, ...]."""
        size = len(self._images)
        epochs, offsets = np.divmod(int(k) * self._batch_size + self._rows.astype(np.int64), size)
        drawn = {epoch: draw(self._seed, epoch, size) for epoch in np.unique(epochs).tolist()}
        one = next(iter(drawn.values()))
        rows = np.empty((len(offsets), *one.shape[1:]), one.dtype)
        for epoch, values in drawn.items():
            here = epochs == epoch
            rows[here] = values[offsets[here]]
        return rows


@contextlib.contextmanager
def _unseen_by_children() -> Iterator[None]:
    """Processes started in this context, by any thread, ignore SIGINT and SIGTERM, which Ctrl-C and SLURM send to all.

    A run that is terminated still needs its workers for the current step.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signals
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(*_: int) -> None:
    """Silence Pillow in this worker, and end it when the process that started it is gone, however that ended."""
    ignore_metadata_warnings()

    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait():
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Batches(grain.DatasetIterator):
    """The records of a grain dataset in order; the state is the number of the next one.

    grain's own state of a pipeline with worker processes names the workers, so a run could not resume with another
    number of them.
    """

    def __init__(self, dataset: grain.MapDataset, read: grain.ReadOptions, workers: int):
        """Read with the threads of `read` in this process, or in that many worker processes."""
        super().__init__()
        self._dataset, self._read, self._workers = dataset, read, workers
        self._next = 0
        self._records: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        try:
            if self._records is None:
                with _unseen_by_children() if self._workers else contextlib.nullcontext():
                    self._records = self._start()
                    record = next(self._records)  # grain starts the workers only now
            else:
                record = next(self._records)
        except RuntimeError as error:
            if not self._workers or "terminated" not in str(error):
                raise
            self.close()
            fault = f"a process that reads images ended unexpectedly ({str(error).partition('.')[0]})"
            remedy = f"if it ran out of memory, lower config.data.workers = {self._workers}"
            raise InputError(f"{fault}: {remedy}; run the same command again to resume from the checkpoint") from error
        self._next += 1
        return record

    def _start(self) -> grain.DatasetIterator:
        rest = self._dataset[self._next :].to_iter_dataset(self._read)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain passes its flags on to the workers; a notebook parses none
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(self._workers, self._read.prefetch_buffer_size)
            rest = rest.mp_prefetch(options, _init_worker)
        return iter(rest)

    def get_state(self) -> dict[str, int]:
        """The position of the iterator, as plain JSON."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue from a position that `get_state` returned."""
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """End the threads and processes; reading the next record starts them again."""
        if self._records is not None:
            self._records.close()
            self._records = None


def _with_rows(rows: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": images, "row": rows}


def records(images: Images, batch_size: int, seed: int, k: int) -> np.ndarray:
    """The indices of the images in batch k (from 0) of `batches`, over all processes, [batch_size]."""
    return ShuffledBatches(images, batch_size, seed, np.arange(batch_size)).records(k)


def batches(
    images: Images,
    batch_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    flip: bool = False,
    workers: int = 0,
    turn: bool = False,
) -> Batches:
    """An endless, resumable iterator over training batches.

    A batch holds `image` [b, H, W, C], in bytes if the source has them (`to_float` converts them), and `row` [b], the
    position of each example in the global batch. Each process reads contiguous rows.

    Args:
      images: [n, H, W, C].
      batch_size: of the whole batch over all processes.
      seed: of the order of the images.
      process, processes: the share of this process.
      flip: turn each example left to right with probability one half, drawn anew for every epoch.
      workers: processes that decode images which are not kept in memory; 0 uses threads.
      turn: turn each example by 0 to 3 quarter turns, all with the same probability, drawn anew for every epoch.

    Raises:
      InputError: there are no images, or images that are not square are to be turned.
    """
    if len(images) == 0:
        raise InputError("the data source is empty: there is no image to train on")
    height, width = images.shape[1:3]
    if turn and height != width:
        raise InputError(f"config.data.turn = True: images of {height}x{width} are not square: set it to False")
    rows = np.split(np.arange(batch_size, dtype=np.int32), processes)[process]
    source = ShuffledBatches(images, batch_size, seed, rows, flip, turn)
    dataset = grain.MapDataset.source(source).map(functools.partial(_with_rows, rows))
    if not isinstance(images, LazyImages):
        return Batches(dataset, grain.ReadOptions(num_threads=1, prefetch_buffer_size=8), 0)
    if images.kept or not workers:
        threads = min(8, os.cpu_count() or 1)
        return Batches(dataset, grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8), 0)
    return Batches(dataset, grain.ReadOptions(num_threads=1, prefetch_buffer_size=2), workers)


def batch_options(config: ConfigDict) -> dict[str, Any]:
    """What config.data asks of `batches`, as keyword arguments."""
    return {name: config[name] for name in ("flip", "turn", "workers")}


def placed_ahead(
    batches: Batches, place: Callable[[Any], Placed], count: int
) -> Iterator[tuple[Placed, dict[str, int]]]:
    """The next `count` batches on their devices, each with the state of the iterator that continues after it.

    When a batch is handed out, the one after it is already placed, so its transfer overlaps with the step on the first.
    The state of `batches` itself is then one batch ahead. Nothing is read beyond the last batch.

    Args:
      place: puts a batch on its devices, and need not wait for the transfer.
    """
    placed = ((place(next(batches)), batches.get_state()) for _ in range(count))
    ready = collections.deque(itertools.islice(placed, 1))
    while ready:
        ready.extend(itertools.islice(placed, 1))
        yield ready.popleft()
