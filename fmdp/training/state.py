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
class SavedCopies(SavedState):
    """What a checkpoint holds of a state with further `copies` of the parameters; other runs know no such entry."""

    copies: Any


@struct.dataclass
class TrainState(SavedState):
    """Everything that training carries from one step to the next.

    `skipped` [2] counts the updates that were skipped because they were not finite: the latest in a row, and the total.
    `more_ema` is a tuple of the averages with `config.ema.more_half_lives`. `teacher` is the average of the network's
    parameters that makes the targets, None where the parameters make them.
    """

    skipped: Any
    more_ema: Any = ()
    teacher: Any = None

    def saved(self) -> SavedState:
        """What a checkpoint holds; the total of skipped updates goes into its progress."""
        saved = self.step, self.params, self.ema, self.opt_state
        copies = {"more_ema": self.more_ema} if self.more_ema else {}
        copies |= {} if self.teacher is None else {"teacher": self.teacher}
        return SavedCopies(*saved, copies) if copies else SavedState(*saved)

    @classmethod
    def from_checkpoint(cls, saved: SavedState, skipped: int, step: Any = None) -> "TrainState":
        """The state in a checkpoint, at its own step unless given, with the total of updates skipped before."""
        step = saved.step if step is None else step
        copies = getattr(saved, "copies", {})
        counts = np.array([0, skipped], np.int32)
        return cls(step, saved.params, saved.ema, saved.opt_state, counts, **copies)


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


def init_params(config: ConfigDict, image_shape: tuple[int, ...], key: PRNGKey, network_params: Any = None) -> Any:
    """Parameters for images of shape [H, W, C]; those of the network are random unless they are given.

    The network is only traced, and its arrays are drawn one by one: to compile them as one program takes longer.
    """
    time, image = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((), image_shape))
    network_key, weight_key = jax.random.split(key)
    if network_params is None:
        network_params = make_network(config).lazy_init(network_key, image, time, time)["params"]
    params = {"network": network_params}
    if config.loss.weighting == "learned":
        params["log_variance"] = LogVariance().lazy_init(weight_key, time, time)["params"]
    return params


def first_state(config: ConfigDict, params: Any) -> TrainState:
    """The state at step 0 with these parameters."""
    opt_state = make_optimizer(config, hyperparameters(config)).init(params)
    # No shared buffers, so that a step may take the state over.
    ema, *more = (jax.tree.map(jnp.copy, params["network"]) for _ in (0, *config.ema.more_half_lives))
    teacher = jax.tree.map(jnp.copy, ema) if config.loss.teacher_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, ema, opt_state, jnp.zeros(2, jnp.int32), tuple(more), teacher)


def init_state(config: ConfigDict, image_shape: tuple[int, ...], key: PRNGKey) -> TrainState:
    """The state at step 0 with random parameters, for images of shape [H, W, C]."""
    return first_state(config, init_params(config, image_shape, key))
