"""One step of training as a pure function of state, batch and key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from fmdp.data.containers import to_float
from fmdp.flow import losses
from fmdp.flow.diagonal_rows import Rows, split_rows
from fmdp.flow.times import kronecker_times
from fmdp.networks.log_variance import LogVariance
from fmdp.parallel.data_parallel import GradientTransform
from fmdp.training.hyperparameters import Hyperparameters, hyperparameters
from fmdp.training.state import TrainState, make_field, make_network, make_optimizer
from fmdp.training.vectors import pack, pack_like, unpack
from fmdp.types import AverageField, PRNGKey

Metrics = dict[str, Array]


def make_loss(config: ConfigDict) -> Callable[[Any, Rows, PRNGKey], tuple[Array, Metrics]]:
    """The loss of parameters on contiguous rows of a batch, and its two terms: (params, batch, key) -> (loss, metrics).

    Images that are bytes are converted here, so that they take a quarter of the memory on their way to the device.

    All are means over the examples. The noise, the times and the dropout of an example depend only on the key and its
    row, so the result does not depend on how the batch is divided.
    """
    network = make_network(config)
    dropout = getattr(network, "dropout", 0.0) > 0
    off_diagonal_loss = losses.OFF_DIAGONAL[config.loss.off_diagonal]

    def field_of(params: Any, key: PRNGKey) -> AverageField:
        return make_field(network, params["network"], key if dropout else None)

    def weigh(params, loss, s, t):
        if config.loss.weighting == "none":
            return loss
        log_variance: Any = LogVariance().apply({"params": params["log_variance"]}, s, t)
        return losses.weigh(loss, log_variance, config.loss.weight_bound)

    def diagonal(params, key, x1, row):
        t, _ = kronecker_times(key, row)
        noise_key, dropout_key = jax.random.split(jax.random.fold_in(key, row))
        x0 = jax.random.normal(noise_key, x1.shape)
        loss = losses.diagonal(field_of(params, dropout_key), x0, x1, t)
        return loss, weigh(params, loss, t, t)

    def off_diagonal(params, key, x1, row):
        a, b = kronecker_times(key, row)
        noise_key, middle_key, dropout_key = jax.random.split(jax.random.fold_in(key, row), 3)
        x0 = jax.random.normal(noise_key, x1.shape)
        s, t = jnp.minimum(a, b), jnp.maximum(a, b)
        u = s + jax.random.uniform(middle_key) * (t - s)
        loss = off_diagonal_loss(field_of(params, dropout_key), x0, x1, s, u, t)
        return loss, weigh(params, loss, s, t)

    def batch_loss(params, batch, key):
        total: Array | float = 0.0
        metrics: Metrics = {}
        groups = zip((diagonal, off_diagonal), split_rows(batch, config.loss.diagonal_share), strict=True)
        for term_key, (term, group) in zip(jax.random.split(key), groups, strict=True):
            if len(group["row"]):
                one = jax.vmap(term, in_axes=(None, None, 0, 0))
                loss, weighed = one(params, term_key, to_float(group["image"]), group["row"])
                total, metrics[term.__name__] = total + jnp.sum(weighed), jnp.mean(loss)
        mean = total / len(batch["row"])
        return mean, metrics | {"loss": mean}

    return batch_loss


def accumulate(gradient: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """`gradient` of (params, batch, key) as the mean over contiguous parts of the batch, one after another in memory.

    This is exactly the gradient of the whole batch: all parts have the same pattern of rows (`diagonal_rows`), and the
    noise of an example depends on its row.
    """
    if parts == 1:
        return gradient

    def mean(params, batch, key):
        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, key)), None

        batch = jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], batch), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.tree.map(lambda x: x / parts, jax.lax.scan(add, zeros, batch)[0])

    return mean


def step_form(config: ConfigDict, state: TrainState) -> TrainState:
    """A state in the form for which the step is the smallest program: packed, unless its arrays are sharded."""
    return state if config.parallel.fsdp else pack(state)


def make_train_step(
    config: ConfigDict, over_devices: GradientTransform = lambda gradient: gradient
) -> Callable[..., tuple[TrainState, Metrics]]:
    """One step of training: (state, batch, key, numbers) -> (state, metrics).

    The state may be packed (`step_form`); the update is a much smaller program then. The key is that of the run; each
    step folds its number in, so resuming needs no saved key. Where the loss or the gradient is not finite, only
    the step number and the count of skipped updates change. The numbers are those of the configuration by default;
    under jit they are then constants, and a change of them compiles anew.

    Args:
      over_devices: turns the gradient on one device's rows into that of the whole batch (`TrainMode.compile`).
    """
    value_and_grad = jax.value_and_grad(make_loss(config), has_aux=True)

    def gradient(params, batch, key):
        values, grads = value_and_grad(unpack(params), batch, key)
        return values, pack_like(grads, params)

    mean_gradient = over_devices(accumulate(gradient, config.train.grad_accumulation_steps))
    of_config = hyperparameters(config)

    def train_step(state, batch, key, numbers=of_config):
        (_, metrics), grads = mean_gradient(state.params, batch, jax.random.fold_in(key, state.step))
        return update(config, numbers, state, grads, metrics)

    return train_step


def update(
    config: ConfigDict, numbers: Hyperparameters, state: TrainState, grads: Any, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """The state after one update with a gradient, and the metrics of the loss with those of the update."""
    updates, opt_state = make_optimizer(config, numbers).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decays, averages = (numbers.ema_decay, *numbers.more_ema_decays), (state.ema, *state.more_ema)
    age = numbers.ema_age + state.step
    new = [_average(*pair, params["network"], age) for pair in zip(averages, decays, strict=True)]
    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(gradient_norm)
    params, (ema, *more), opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, new, opt_state),
        (state.params, list(averages), state.opt_state),
    )
    skipped = jnp.where(finite, state.skipped * jnp.array([0, 1]), state.skipped + 1)
    metrics |= {
        "gradient_norm": gradient_norm,
        "update_norm": optax.tree.norm(updates),
        "parameter_norm": optax.tree.norm(params),
        "skipped_in_a_row": skipped[0],
        "skipped": skipped[1],
    }
    return TrainState(state.step + 1, params, ema, opt_state, skipped, tuple(more)), metrics


def _average(average: Any, decay: Any, params: Any, age: Any) -> Any:
    """An average of the parameters after a step; a young one forgets its random start quickly."""
    rate = jnp.minimum(decay, (1.0 + age) / (10.0 + age))
    return optax.incremental_update(params, average, 1 - rate)
