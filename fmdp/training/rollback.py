"""Rolling back to the last checkpoint when too many updates in a row were skipped because they were not finite."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fmdp.errors import InputError
from fmdp.training.checkpoint import Checkpoints
from fmdp.training.state import TrainState

REMEDY = "lower config.optimizer.learning_rate, or the share of the off-diagonal term"


class Rollback:
    """Watches the reported metrics, and rolls the run back at most once to any checkpoint."""

    def __init__(self, checkpoints: Checkpoints, shapes: Any, limit: int, records: Callable[[int], np.ndarray]):
        """Watch a run.

        Args:
          checkpoints: of the run.
          shapes: of what a checkpoint holds, with shardings.
          limit: skipped updates in a row that make a rollback pending.
          records: the training images in batch k, from 0.
        """
        self._checkpoints, self._shapes, self._limit, self._records = checkpoints, shapes, limit, records
        self._fault = ""  # why a rollback is pending
        self._amid_skips = False  # in the latest report
        self._rolled_back_to: int | None = None

    @property
    def pending(self) -> bool:
        """Whether too many updates were skipped since the run last rolled back."""
        return bool(self._fault)

    @property
    def healthy(self) -> bool:
        """Whether the latest reported update was finite, and no rollback is pending."""
        return not (self._fault or self._amid_skips)

    def observe(self, step: int, scalars: dict[str, float]) -> None:
        """Take the reported metrics of a step into account."""
        skipped = scalars["skipped_in_a_row"]
        self._amid_skips = skipped > 0
        if skipped < self._limit or self._fault:
            return
        images = ", ".join(map(str, np.sort(self._records(step - 1))))
        self._fault = (
            f"the loss is {scalars['loss']:.6g} at step {step}, the gradient norm {scalars['gradient_norm']:.6g}, and"
            f" {skipped:.0f} updates in a row were not finite and skipped; the last was on the training images {images}"
        )

    def restore(self, state: TrainState, step: int) -> TrainState:
        """The state of the last checkpoint at the present step, so that training continues with the next batches.

        Args:
          state: the present one, whose total of skipped updates is kept.
          step: the present one.

        Raises:
          InputError: there is no checkpoint, or the run already rolled back to it.
        """
        self._checkpoints.wait()
        if self._checkpoints.latest_step is None:
            raise InputError(f"{self._fault}; there is no checkpoint to roll back to: {REMEDY}")
        saved, progress = self._checkpoints.restore(self._shapes)
        good_step = progress["steps"]
        if good_step == self._rolled_back_to:
            raise InputError(f"{self._fault}; the run already rolled back to step {good_step}, which is kept: {REMEDY}")
        print(f"{self._fault}; rolling back to the parameters of step {good_step}", flush=True)
        self._fault, self._rolled_back_to = "", good_step
        return TrainState.from_checkpoint(saved, int(jax.device_get(state.skipped)[1]), np.int32(step))
