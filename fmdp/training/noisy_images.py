"""What a run measures on a few clean images with noise, which is the same each time so that results can be compared."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fmdp.parallel import batching
from fmdp.types import AverageField


def images_at_once(config: ConfigDict) -> int:
    """How many images a step of training has in memory at once, over all devices: its batch, or a part of it."""
    return config.train.batch_size // config.train.grad_accumulation_steps


def with_fixed_noise(function: Callable[..., Any], field: AverageField, images: np.ndarray, size: int) -> Any:
    """The outputs of `function` as host arrays [levels, n, ...].

    Args:
      function: compiled, of a field and rows, which are `image` and `noise`, both [b, H, W, C]; returns arrays
        [levels, b, ...], every row by itself.
      field: a pytree; its arrays lie on all devices of the run.
      images: [n, H, W, C], equal in all processes.
      size: the largest number of images in one pass, over all devices.
    """
    noise = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    rows = {"image": images, "noise": noise}
    return batching.in_batches(lambda rows: function(field, rows), rows, min(size, len(images)), axis=1)
