"""The loss of a batch: draws noise and times for every example and applies the terms of `fmdp.flow.losses`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from ml_collections import ConfigDict

from fmdp.flow import losses
from fmdp.flow.diagonal_rows import split_rows
from fmdp.flow.times import QUANTILES, kronecker_times
from fmdp.io.levels import to_float
from fmdp.networks.log_variance import LogVariance
from fmdp.training.state import make_field, make_network
from fmdp.types import AverageField, PRNGKey

Metrics = dict[str, Array]


@struct.dataclass
class Fixed:
    """What a loss depends on besides the parameters that it has a gradient in; a pytree, empty by default.

    Attributes:
      teacher: the network's parameters that make the targets, None for those that are trained.
      interval: the share of t - s that the off-diagonal term spans, in [0, 1], None for all of it.
    """

    teacher: Any = None
    interval: Any = None


NOTHING = Fixed()


def make_loss(config: ConfigDict) -> Callable[..., tuple[Array, Metrics]]:
    """The loss on contiguous rows of a batch, and its two terms: (params, batch, key, fixed) -> (loss, metrics).

    Images that are bytes are converted here, so that they take a quarter of the memory on their way to the device.

    All are means over the examples. The terms are mean squares; the loss is made of them by `losses.adapt` and, after
    it, the learned weight, which learns the size of the robust loss then. The noise, the times and the dropout of an
    example depend only on the key and its row, so the result does not depend on how the batch is divided.
    """
    network = make_network(config)
    dropout = getattr(network, "dropout", 0.0) > 0
    off_diagonal_loss = losses.OFF_DIAGONAL[config.loss.off_diagonal]

    def field_of(params: Any, key: PRNGKey) -> AverageField:
        return make_field(network, params["network"], key if dropout else None)

    def teacher_of(params: Any, fixed: Fixed) -> AverageField | None:
        """What makes the targets, without dropout; None if it is the trained field, which then shares evaluations."""
        if fixed.teacher is None and not dropout:
            return None
        return make_field(network, params["network"] if fixed.teacher is None else fixed.teacher)

    def diagonal(params, fixed, key, x1, row):
        t, _ = draw_times(config, key, row)
        noise_key, dropout_key = jax.random.split(jax.random.fold_in(key, row))
        x0 = jax.random.normal(noise_key, x1.shape)
        loss = losses.diagonal(field_of(params, dropout_key), x0, x1, t)
        return loss, weigh(config, params, loss, t, t)

    def off_diagonal(params, fixed, key, x1, row):
        a, b = draw_times(config, key, row)
        noise_key, middle_key, dropout_key = jax.random.split(jax.random.fold_in(key, row), 3)
        x0 = jax.random.normal(noise_key, x1.shape)
        s, t = jnp.minimum(a, b), jnp.maximum(a, b)
        if fixed.interval is not None:
            t = s + fixed.interval * (t - s)
        u = s + jax.random.uniform(middle_key) * (t - s)
        field, teacher = field_of(params, dropout_key), teacher_of(params, fixed)
        loss = off_diagonal_loss(field, x0, x1, s, u, t, teacher, config.loss.difference)
        return loss, weigh(config, params, loss, s, t)

    def batch_loss(params, batch, key, fixed=NOTHING):
        total: Array | float = 0.0
        metrics: Metrics = {}
        groups = zip((diagonal, off_diagonal), split_rows(batch, config.loss.diagonal_share), strict=True)
        for term_key, (term, group) in zip(jax.random.split(key), groups, strict=True):
            if len(group["row"]):
                one = jax.vmap(term, in_axes=(None, None, None, 0, 0))
                loss, weighed = one(params, fixed, term_key, to_float(group["image"]), group["row"])
                total, metrics[term.__name__] = total + jnp.sum(weighed), jnp.mean(loss)
        mean = total / len(batch["row"])
        return mean, metrics | {"loss": mean}

    return batch_loss


def draw_times(config: ConfigDict, key: PRNGKey, row: Array) -> list[Array]:
    """Two times of training for the example in this row of the batch, each with the law `config.loss.times`."""
    quantile = QUANTILES[config.loss.times]
    return [quantile(u, config.loss.times_mean, config.loss.times_std) for u in kronecker_times(key, row)]


def weigh(config: ConfigDict, params: Any, loss: Array, s: Array, t: Array) -> Array:
    """What the loss of one example at these times counts: robust first, then with its learned weight."""
    loss = losses.adapt(loss, config.loss.power, config.loss.huber)
    if config.loss.weighting == "none":
        return loss
    log_variance: Any = LogVariance().apply({"params": params["log_variance"]}, s, t)
    return losses.weigh(loss, log_variance, config.loss.weight_bound)
