"""What training carries from one step to the next, and what it is made of: network, optimizer, initial state."""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.tree_util import Partial
from ml_collections import ConfigDict

from fmdp import networks
from fmdp.networks.log_variance import LogVariance
from fmdp.training.hyperparameters import Hyperparameters, hyperparameters, learning_rate
from fmdp.types import AverageField, PRNGKey


@struct.dataclass
class SavedState:
    """What a checkpoint holds of a state."""

    step: Any
    params: Any
    ema: Any
    opt_state: Any


@struct.dataclass
class SavedWithTeacher(SavedState):
    """What a checkpoint holds of a state with a teacher; those of other runs know no such entry."""

    teacher: Any


@struct.dataclass
class TrainState(SavedState):
    """Everything that training carries from one step to the next.

    `skipped` [2] counts the updates that were skipped because they were not finite: the latest in a row, and the total.
    `teacher` is the average of the network's parameters that makes the targets, None where the parameters make them.
    """

    skipped: Any
    teacher: Any = None

    def saved(self) -> SavedState:
        """What a checkpoint holds; the total of skipped updates goes into its progress."""
        common = self.step, self.params, self.ema, self.opt_state
        return SavedState(*common) if self.teacher is None else SavedWithTeacher(*common, self.teacher)

    @classmethod
    def from_checkpoint(cls, saved: SavedState, skipped: int, step: Any = None) -> "TrainState":
        """The state in a checkpoint, at its own step unless given, with the total of updates skipped before."""
        step = saved.step if step is None else step
        teacher = saved.teacher if isinstance(saved, SavedWithTeacher) else None
        return cls(step, saved.params, saved.ema, saved.opt_state, np.array([0, skipped], np.int32), teacher)


def make_network(config: ConfigDict) -> nn.Module:
    """The backbone that config.network describes."""
    options = dict(config.network)
    name = options.pop("name")  # lists become tuples, so that a network can be hashed
    return networks.make_backbone(name, {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()})


def make_field(network: nn.Module, params: Any, dropout_key: PRNGKey | None = None) -> AverageField:
    """The average field of a network at given parameters; a pytree, so it can be passed to compiled functions.

    Args:
      dropout_key: for training; without one there is no dropout.
    """
    rngs = {} if dropout_key is None else {"rngs": {"dropout": dropout_key}}
    return Partial(_apply(network), {"params": params}, **rngs)


@functools.lru_cache(maxsize=8)
def _apply(network: nn.Module) -> Callable[..., Array]:
    """The same function for all equal networks, so that they share compiled programs."""
    return cast(Callable[..., Array], network.apply)


def make_optimizer(config: ConfigDict, numbers: Hyperparameters) -> optax.GradientTransformation:
    """Clipped AdamW at these numbers, which may be traced; the log-variance learns slower."""
    c = config.optimizer
    slower = optax.partition(
        {"network": optax.identity(), "log_variance": optax.scale(config.loss.weight_learning_rate)},
        lambda params: {name: name for name in params},
    )
    return optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        optax.adamw(functools.partial(learning_rate, numbers), c.b1, c.b2, weight_decay=numbers.weight_decay),
        slower,
    )


def init_state(config: ConfigDict, image_shape: tuple[int, ...], key: PRNGKey) -> TrainState:
    """The state at step 0 for images of shape [H, W, C]."""
    time = jnp.zeros(())
    network_key, weight_key = jax.random.split(key)
    params = {"network": make_network(config).init(network_key, jnp.zeros(image_shape), time, time)["params"]}
    if config.loss.weighting == "learned":
        params["log_variance"] = LogVariance().init(weight_key, time, time)["params"]
    opt_state = make_optimizer(config, hyperparameters(config)).init(params)
    ema = jax.tree.map(jnp.copy, params["network"])  # no shared buffers, so that a step may take the state over
    teacher = jax.tree.map(jnp.copy, ema) if config.loss.teacher_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, ema, opt_state, jnp.zeros(2, jnp.int32), teacher)
