"""The numbers of a training step that are arguments of its program: a run that changes only these compiles nothing."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from ml_collections import ConfigDict

from fmdp.types import Scalar

TRAINED = 1e9  # steps, more than any run has


@struct.dataclass
class Hyperparameters:
    """Numbers of a training step as float32 scalars; a pytree, and no part of a checkpoint.

    Attributes:
      learning_rate: the largest, which the warm-up ends at.
      warmup_steps: over which the learning rate rises linearly from zero.
      decay_steps: over which it then falls to zero along a cosine; infinite where it stays.
      weight_decay: of AdamW, relative to the learning rate.
      ema_decay: of the average of the parameters, in one step.
      ema_age: of the average at step 0, in steps: none if the parameters are random.
      more_ema_decays: of the further averages.
      teacher_decay: of the average that is the teacher, in one step; None without one, as nothing then depends on it.
      interval_steps: over which the intervals of the off-diagonal term grow to their length; None if at once.
    """

    learning_rate: Any
    warmup_steps: Any
    decay_steps: Any
    weight_decay: Any
    ema_decay: Any
    ema_age: Any
    more_ema_decays: Any = ()
    teacher_decay: Any = None
    interval_steps: Any = None

    def interval(self, step: Array) -> Array | None:
        """The share of its interval t - s that the off-diagonal term spans at a step, None for all of it at any.

        Intervals that grow waste no example; a weight that grows in their place would.
        """
        return None if self.interval_steps is None else jnp.minimum(step / self.interval_steps, 1.0)


def hyperparameters(config: ConfigDict) -> Hyperparameters:
    """The numbers that a configuration gives. The warm-up takes at most half of the steps if the rate decays."""
    c, steps = config.optimizer, config.train.steps
    warmup = min(c.warmup_steps, steps // 2) if c.decay else max(c.warmup_steps, 1)
    return Hyperparameters(
        learning_rate=np.float32(c.learning_rate),
        warmup_steps=np.float32(warmup),
        decay_steps=np.float32(steps - warmup if c.decay else np.inf),
        weight_decay=np.float32(c.weight_decay),
        ema_decay=_decay(config, config.ema.half_life),
        ema_age=np.float32(TRAINED if config.train.start_from else 0),
        more_ema_decays=tuple(_decay(config, half_life) for half_life in config.ema.more_half_lives),
        teacher_decay=np.float32(config.loss.teacher_decay) if config.loss.teacher_decay else None,
        interval_steps=np.float32(config.loss.interval_steps) if config.loss.interval_steps else None,
    )


def _decay(config: ConfigDict, half_life: float) -> np.float32:
    return np.float32(0.5 ** (config.train.batch_size / half_life))


def learning_rate(numbers: Hyperparameters, updates: Array | int) -> Scalar:
    """The learning rate after so many updates, which equals that of optax's schedules up to rounding.

    They are `warmup_cosine_decay_schedule` and, where the rate stays, `linear_schedule`.
    """
    warmup = jnp.asarray(numbers.warmup_steps)
    count = jnp.asarray(updates, warmup.dtype)
    rise = count / jnp.maximum(warmup, 1)
    fallen = jnp.minimum(count - warmup, numbers.decay_steps) / numbers.decay_steps
    return numbers.learning_rate * jnp.where(count < warmup, rise, (1 + jnp.cos(jnp.pi * fallen)) / 2)
