"""Saving a run: its progress, its checkpoint and its weights."""

import math
import time
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from fmdp import networks
from fmdp.config.defaults import as_plain_dict
from fmdp.parallel import batching
from fmdp.training import averages
from fmdp.training.checkpoint import Checkpoints, Weights
from fmdp.training.state import TrainState, make_network

LOSSES = ("loss", "diagonal", "off_diagonal")


class Saver:
    """Saves the state of a run at a step, with everything that resuming and loading it needs."""

    def __init__(self, config: ConfigDict, checkpoints: Checkpoints, validation: np.ndarray, progress: dict):
        """Save the run that a configuration describes, with this progress before.

        Args:
          validation: images [n, H, W, C] that the average is chosen on; n may be 0.
        """
        self._config, self._checkpoints, self._validation = config, checkpoints, validation
        self._began = time.monotonic() - progress["seconds"]
        self._origin = {name: x for name, x in progress.items() if name == "started_from"}
        self._choice: dict[str, float] = {}

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint belongs at this step."""
        return step % self._config.train.checkpoint_every == 0 or step == self._config.train.steps

    def save(self, step: int, state: TrainState, scalars: dict[str, float], position: dict[str, int]) -> dict[str, Any]:
        """Save the state after a step; its metrics as numbers go into the progress.

        The average is chosen anew where a checkpoint is due. A checkpoint that a signal asks for cannot wait for that,
        and keeps the last choice of this process.

        Args:
          state: over all devices of the run.
          position: state of the iterator whose next batch follows this step.

        Returns:
          The progress: what summary.json says of the training.

        Raises:
          InputError: there is no room on the disk.
        """
        if self.is_due(step):
            self._choice = averages.choose(self._config, state, self._validation)
        seconds = time.monotonic() - self._began
        progress = {
            "steps": step,
            "seconds": seconds,
            "examples_per_second": step * self._config.train.batch_size / seconds,
            "skipped": int(scalars["skipped"]),
            **{name: x for name, x in scalars.items() if name in LOSSES and math.isfinite(x)},
            **self._choice,
            **self._origin,
        }
        ema = averages.with_chosen(self._config, state, progress).ema
        weights = average_weights(self._config, self._validation.shape[1:], ema, progress)
        self._checkpoints.save(step, state.saved(), position, progress, weights)
        return progress


def average_weights(config: ConfigDict, image_shape: tuple[int, ...], ema: Any, progress: dict[str, Any]) -> Weights:
    """The averaged network as named arrays of this host, and its description for `io.weights.write_weights`.

    Args:
      ema: the average of the network's parameters, over all devices of the run.
      progress: what is known of the training so far, as plain JSON.
    """
    params = flax.traverse_util.flatten_dict(batching.single_device(batching.replicate(ema)), sep="/")
    about = {"name": config.name, "steps": progress["steps"], "train": progress, "config": as_plain_dict(config)}
    network = networks.backbone_options(make_network(config))
    model = {"network": network, "image_shape": list(image_shape), "about": about}
    return {name: np.asarray(x) for name, x in jax.device_get(params).items()}, model
