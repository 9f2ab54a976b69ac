"""Checkpoints of a run: state and place in the data together, through orbax, by any number of processes."""

import functools
import pathlib
from typing import Any

import grain
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from fmdp import config as configuration
from fmdp.errors import InputError

# What a state is made for; a checkpoint that differs here belongs to another run.
IDENTITY = ("seed", "data", "network", "loss", "optimizer", "ema", "train.batch_size")
# Where the data is, and how it is read and measured on, is free to change.
FREE = {"path", "origin", "test_images", "strict", "max_pixels", "memory_gb", "workers"}


def exists(workdir: pathlib.Path) -> bool:
    """Whether `workdir` holds a finished checkpoint; looks without opening, which would make folders and threads."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


class Checkpoints:
    """The checkpoints of one workdir, newest last; a context manager that waits for writing to end."""

    def __init__(self, workdir: pathlib.Path, config: ConfigDict):
        """Open (or prepare) `workdir`/checkpoints for the run that `config` describes."""
        self._folder = workdir / "checkpoints"
        self._config = configuration.plain(config)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=config.train.keep, cleanup_tmp_directories=True),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, iterator: grain.DatasetIterator, progress: dict[str, Any]) -> None:
        """Write a checkpoint in the background; it takes its name only when it is whole.

        Args:
          step: how many steps the state has behind it.
          state: over all devices of the run, as `parallel.Parallel.collect` gives it.
          iterator: of the training batches.
          progress: what is known of the training so far, as plain JSON.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                # The iterator's state is the same in all processes; grain's own file would be one of each.
                run=ocp.args.JsonSave({"config": self._config, "progress": progress, "data": iterator.get_state()}),
            ),
        )

    def restore(self, state: Any, iterator: grain.DatasetIterator | None = None) -> tuple[Any, dict[str, Any]]:
        """The newest state and its progress; the iterator, where given, is set to where it was then.

        Args:
          state: a state, or its shapes and dtypes, of the wanted structure and sharding.
          iterator: as `data.batches` makes it for the same configuration.

        Raises:
          InputError: the checkpoint is of another configuration, or cannot be read.
        """
        run = self._read({"run": ocp.args.JsonRestore()})["run"]
        for key in IDENTITY:
            was, now = (functools.reduce(dict.get, key.split("."), config) for config in (run["config"], self._config))
            if key == "data":
                was, now = ({name: x for name, x in data.items() if name not in FREE} for data in (was, now))
            if was != now:
                raise InputError(
                    f"{self._folder} holds a checkpoint of another run: config.{key} was {was} and is now {now};"
                    " name another --workdir, or go back to the old value"
                )
        restored = self._read({"state": ocp.args.StandardRestore(state)})["state"]
        if iterator is not None:  # one batch a step; checkpoints of version 0.1.0 do not say so
            iterator.set_state(run.get("data", {"next_index": run["progress"]["steps"]}))
        return restored, run["progress"]

    def _read(self, items: dict[str, Any]) -> Any:
        try:
            return self._manager.restore(self.latest_step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            raise InputError(
                f"the checkpoint {self._folder / str(self.latest_step)} is damaged or incomplete"
                f" ({str(error).splitlines()[0][:120]}); remove that folder to go on from the one before it"
            ) from error
