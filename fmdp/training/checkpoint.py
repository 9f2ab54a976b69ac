"""Checkpoints of a run: state and place in the data together, through orbax, by any number of processes."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from fmdp.config.defaults import as_plain_dict, default_config
from fmdp.config.renamed import rename_keys
from fmdp.errors import InputError, reason, translating
from fmdp.io.files import is_disk_full
from fmdp.io.weights import write_weights
from fmdp.training.checksum import checksums
from fmdp.training.start import FREE_OPTIONS

FORMAT = 1  # of what is written here; records of version 0.1.0 do not say it
# What a state is made for; a checkpoint that differs here belongs to another run.
IDENTITY = ("seed", "data", "network", "loss", "optimizer", "ema", "train.batch_size", "train.validation_images")
LATER = {"train.validation_images"}  # came after version 0.1.0, whose records have the effect of the default
DEFAULTS = as_plain_dict(default_config())
MAY_DIFFER = {  # where the data is, how it is read and measured on, and how the network is computed
    "data": {"path", "download_hint", "test_images", "strict", "max_pixels", "memory_gb", "workers"},
    "network": {"dtype", "remat"},
}
MAX_LISTINGS = 20  # at a folder that changes, before it is given up

T = TypeVar("T")

Weights = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]
"""Named arrays and their description, as `io.weights.write_weights` takes them."""


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether `workdir` holds a finished checkpoint; looks without opening, which would make folders and threads."""
    return any(path.name.isdigit() and path.is_dir() for path in (workdir / "checkpoints").glob("*"))


class Checkpoints:
    """The checkpoints of one workdir, newest last; a context manager that waits for writing to end."""

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, reading: bool = False):
        """Open (or prepare) `workdir`/checkpoints for the run that `config` describes.

        Args:
          reading: leave half-written ones alone, which another process may be at.

        Raises:
          InputError: the folder cannot be opened.
        """
        self._folder = workdir.absolute() / "checkpoints"  # orbax takes no other
        self._config, self._reading = as_plain_dict(config), reading
        self._needed = 0
        keep: list[Any] = [preservation_policy.LatestN(config.train.max_to_keep)]
        if config.train.keep_period:
            keep.append(preservation_policy.EveryNSteps(interval_steps=config.train.keep_period))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(keep), cleanup_tmp_directories=not reading
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
        remedy = "remove what is damaged in it, or name another workdir"
        # orbax raises errors of many kinds for damaged metadata.
        with translating(lambda why: f"{self._folder} cannot be opened ({why}): {remedy}", Exception):
            self._manager = _retry_listing(
                lambda: ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()

    def wait(self) -> None:
        """Wait until what is being written is whole.

        Raises:
          InputError: there is no room for it.
        """
        with self._room():
            self._manager.wait_until_finished()
        self._remove_stale_weights()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        position: dict[str, int],
        progress: dict[str, Any],
        weights: Weights,
    ) -> None:
        """Write the weights, then a checkpoint in the background, which takes its name only when it is complete.

        Args:
          step: the steps that the state has behind it.
          state: over all devices of the run, as `TrainMode.collect` returns it.
          position: state of the iterator whose next batch is trained on after this step.
          progress: what is known of the training so far, as plain JSON.
          weights: of the averaged network, with their description.

        Raises:
          InputError: there is no room for this one, or there was none for the one before.
        """
        size = sum(x.nbytes for x in jax.tree.leaves(state)) * 11 // 10 + 2**17  # with what orbax adds
        self._needed = size + 2 * sum(x.nbytes for x in weights[0].values())
        # The position is the same in all processes; grain's own file would be one of each.
        run: dict[str, Any] = {"config": self._config, "progress": progress, "data": position}
        run |= {"format": FORMAT, "fingerprint": checksums(state)}
        items = {"state": ocp.args.StandardSave(state), "run": ocp.args.JsonSave(run | {"digest": _digest(run)})}
        self.wait()
        with self._room():
            short = np.int32(shutil.disk_usage(self._folder).free < self._needed)
            if multihost_utils.broadcast_one_to_all(short):  # so that no process waits for another that gave up
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._write_weights(step, weights)
            self._manager.save(step, args=ocp.args.Composite(**items))

    def _write_weights(self, step: int, weights: Weights) -> None:
        """Before the checkpoint, so that there is none without its weights."""
        if jax.process_index() == 0:
            own = self._weights_folder / str(step)
            own.mkdir(parents=True, exist_ok=True)
            for folder in (own, self._folder.parent):
                write_weights(folder, *weights)

    def _remove_stale_weights(self) -> None:
        """Remove the weights of the steps that have no checkpoint."""
        if jax.process_index() == 0 and not self._reading:
            steps = set(map(str, self._manager.all_steps()))
            for folder in self._weights_folder.glob("*"):
                if folder.name not in steps:
                    shutil.rmtree(folder, ignore_errors=True)

    @property
    def _weights_folder(self) -> pathlib.Path:
        return self._folder.parent / "weights"

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Tells a full disk from what else goes wrong in writing, and leaves nothing half-written on it."""
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many kinds
            if not is_disk_full(error):
                raise
            if jax.process_index() == 0:
                for half in self._folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(half, ignore_errors=True)
            free = shutil.disk_usage(self._folder).free
            sizes = f"it takes {self._needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free (there may be a quota)"
            remedy = "make room, or lower config.train.max_to_keep; then run again to resume from the last checkpoint"
            raise InputError(f"no room for a checkpoint in {self._folder}: {sizes}: {remedy}") from error

    def restore(
        self, state: Any, iterator: grain.DatasetIterator | None = None, set_aside: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """The newest state that is whole, and its progress; the iterator, where given, is set to where it was then.

        Args:
          state: a state, or its shapes and dtypes, of the wanted structure and sharding.
          iterator: as `data.batches` makes it for the same configuration.
          set_aside: move damaged checkpoints out of the way, to `damaged` in the workdir, and tell so.

        Raises:
          InputError: the newest is of another configuration, or none is whole.
        """
        damaged: dict[int, _DamagedError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored, run = self._read_whole(step, state)
            except _DamagedError as error:
                damaged[step] = error
                continue
            if damaged and set_aside and jax.process_count() > 1:  # what stays newest, orbax saves nothing before
                raise InputError(f"{damaged[max(damaged)]}: remove it, and the run resumes from step {step}")
            for found, fault in damaged.items() if set_aside else ():
                print(f"{fault}; set aside in {self._put_away(found)}", flush=True)
            if iterator is not None:  # one batch a step; checkpoints of version 0.1.0 do not say so
                iterator.set_state(run.get("data", {"next_index": run["progress"]["steps"]}))
            return restored, run["progress"]
        _retry_listing(self._manager.reload)
        if not damaged.keys() >= set(self._manager.all_steps()):  # a run that writes has replaced them by newer ones
            return self.restore(state, iterator, set_aside)
        newest = damaged[max(damaged)] if damaged else f"{self._folder} holds no checkpoint"
        raise InputError(f"{newest}; no whole one is left: remove it to start anew, or name another workdir")

    def _read_whole(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        run = self._read(step, {"run": ocp.args.JsonRestore()})["run"]
        if not _is_record(run):
            raise _DamagedError(self._folder / str(step), "its record was changed")
        if run.get("format", 1) > FORMAT:
            found = f"the checkpoint {self._folder / str(step)} has format {run['format']}"
            raise InputError(f"{found}, and this version of fmdp reads up to format {FORMAT}: update fmdp")
        self._check_identity(run["config"])
        restored = self._read(step, {"state": ocp.args.StandardRestore(state)})["state"]
        if run.get("fingerprint") not in (None, checksums(restored)) or restored.step != run["progress"]["steps"]:
            raise _DamagedError(self._folder / str(step), "an array was changed")
        return restored, run

    def _check_identity(self, config: dict[str, Any]) -> None:
        """Refuse the checkpoint of a run with another configuration."""
        rename_keys(config)
        for key in IDENTITY:
            was, now = (_at(c, key) for c in (config, self._config))
            if was is None and key in LATER:
                was = _at(DEFAULTS, key)
            if isinstance(was, dict) and isinstance(now, dict):
                was = _at(DEFAULTS, key) | was  # a key that came later had the effect of its default
                same = {name for name in was | now if was.get(name) == now.get(name)} | MAY_DIFFER.get(key, set())
                was, now = ({name: x for name, x in one.items() if name not in same} for one in (was, now))
            if was != now:
                found = f"{self._folder} belongs to another run: config.{key} was {was} and is now {now}"
                raise InputError(f"{found}; {self._way_on(key, was, now)}")

    def _way_on(self, key: str, was: Any, now: Any) -> str:
        """What to do about a setting that differs; of one with several keys, these are those that do."""
        changed = {*was, *now} if isinstance(was, dict) and isinstance(now, dict) else set()
        # Weights fit no other network; of the data, they ask for as many channels.
        fits = {"network": changed <= FREE_OPTIONS, "data": "channels" not in changed}.get(key, True)
        if self._reading or not fits:
            return "name another workdir, or go back to the old value"
        anew = f"--workdir=ANOTHER --config.train.start_from={self._folder.parent}"
        return f"go back to the old value, or start a new run from its weights: {anew}"

    def _read(self, step: int, items: dict[str, Any]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            raise _DamagedError(self._folder / str(step), reason(error)) from error

    def _put_away(self, step: int) -> pathlib.Path:
        target = self._folder.parent / "damaged" / str(step)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        (self._folder / str(step)).rename(target)
        self._manager.reload()
        return target


class _DamagedError(Exception):
    """A checkpoint that cannot be read, or is not what was written."""

    def __init__(self, path: pathlib.Path, why: str):
        """The message names both."""
        super().__init__(f"the checkpoint {path} is damaged ({why})")


def _retry_listing(look: Callable[[], T]) -> T:
    """Look through the checkpoints, again if a run that is writing has removed one of them in the meantime."""
    for _ in range(MAX_LISTINGS - 1):
        with contextlib.suppress(FileNotFoundError):
            return look()
    return look()


def _is_record(run: Any) -> bool:
    """Whether this is what `Checkpoints.save` notes of a run; version 0.1.0 noted neither format, digest nor data."""
    if not isinstance(run, dict) or not all(isinstance(run.get(name), dict) for name in ("config", "progress")):
        return False
    if "format" in run and run.get("digest") != _digest({name: x for name, x in run.items() if name != "digest"}):
        return False
    progress, data = run["progress"], run.get("data", {"next_index": 0})
    place = data.get("next_index") if isinstance(data, dict) else None
    counts = (run.get("format", 1), progress.get("steps"), progress.get("skipped", 0), place)
    whole = all(isinstance(x, int) and 0 <= x < 2**31 for x in counts)
    return whole and isinstance(progress.get("seconds"), int | float)


def _at(config: Any, key: str) -> Any:
    """What a configuration has under a key such as train.batch_size, None where it has none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _digest(run: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
