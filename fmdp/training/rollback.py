"""Going back to the last checkpoint, where too many updates in a row were skipped because they were not finite."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fmdp.errors import InputError
from fmdp.training.checkpoint import Checkpoints

REMEDY = "lower config.optimizer.learning_rate, or the share of the off-diagonal term"


class Rollback:
    """True once a report says that too many were skipped, until the run has gone back."""

    def __init__(self, checkpoints: Checkpoints, shapes: Any, limit: int, records: Callable[[int], np.ndarray]):
        """For states of these shapes, with so many in a row allowed; `records` tells the images of batch k, from 0."""
        self._checkpoints, self._shapes, self._limit, self._records = checkpoints, shapes, limit, records
        self._told = ""
        self._before: int | None = None  # the step that was gone back to last

    def __bool__(self) -> bool:
        return bool(self._told)

    def observe(self, step: int, scalars: dict[str, float]) -> None:
        """Take note of what is reported of a step."""
        if scalars["skipped_in_a_row"] < self._limit or self._told:
            return
        self._told = (
            f"the loss is {scalars['loss']:.6g} at step {step}, the gradient norm {scalars['gradient_norm']:.6g}, and"
            f" {scalars['skipped_in_a_row']:.0f} updates in a row were not finite and skipped; the last was on the"
            f" training images {', '.join(map(str, np.sort(self._records(step - 1))))}"
        )

    def restore(self) -> Any:
        """The last good state, to go on from with the batches that follow; once from one checkpoint.

        Raises:
          InputError: there is no checkpoint, or it was gone back to before.
        """
        self._checkpoints.wait()
        if self._checkpoints.latest_step is None:
            raise InputError(f"{self._told}; there is no checkpoint to go back to: {REMEDY}")
        good, progress = self._checkpoints.restore(self._shapes)
        step = progress["steps"]
        if step == self._before:
            raise InputError(f"{self._told}; step {step} was gone back to before, and its checkpoint is kept: {REMEDY}")
        print(f"{self._told}; going on from the parameters of step {step}", flush=True)
        self._told, self._before = "", step
        return good
