"""One step of training as a pure function of state, batch and key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from fmdp.parallel.data_parallel import GradientTransform
from fmdp.training.hyperparameters import Hyperparameters, hyperparameters
from fmdp.training.loss import Fixed, Metrics, make_loss
from fmdp.training.state import TrainState, make_optimizer
from fmdp.training.vectors import pack, pack_like, unpack


def accumulate(gradient: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """`gradient` of (params, batch, key, fixed) as the mean over contiguous parts of the batch, in memory in turn.

    This is exactly the gradient of the whole batch: all parts have the same pattern of rows (`diagonal_rows`), and the
    noise of an example depends on its row.
    """
    if parts == 1:
        return gradient

    def mean(params, batch, key, fixed):
        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, key, fixed)), None

        batch = jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], batch), key, fixed)
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

    def gradient(params, batch, key, fixed):
        values, grads = value_and_grad(unpack(params), batch, key, unpack(fixed))
        return values, pack_like(grads, params)

    mean_gradient = over_devices(accumulate(gradient, config.train.grad_accumulation_steps))
    of_config = hyperparameters(config)

    def train_step(state, batch, key, numbers=of_config):
        fixed = Fixed(state.teacher, numbers.interval(state.step))
        (_, metrics), grads = mean_gradient(state.params, batch, jax.random.fold_in(key, state.step), fixed)
        return update(config, numbers, state, grads, metrics)

    return train_step


def update(
    config: ConfigDict, numbers: Hyperparameters, state: TrainState, grads: Any, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """The state after one update with a gradient, and the metrics of the loss with those of the update."""
    updates, opt_state = make_optimizer(config, numbers).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    network, age = params["network"], numbers.ema_age + state.step
    decays, averages = (numbers.ema_decay, *numbers.more_ema_decays), (state.ema, *state.more_ema)
    new = [_average(*pair, network, age) for pair in zip(averages, decays, strict=True)]
    teacher = state.teacher
    if teacher is not None:
        teacher = optax.incremental_update(network, teacher, 1 - numbers.teacher_decay)
    gradient_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(gradient_norm)
    params, (ema, *more), opt_state, teacher = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, new, opt_state, teacher),
        (state.params, list(averages), state.opt_state, state.teacher),
    )
    skipped = jnp.where(finite, state.skipped * jnp.array([0, 1]), state.skipped + 1)
    metrics |= {
        "gradient_norm": gradient_norm,
        "update_norm": optax.tree.norm(updates),
        "parameter_norm": optax.tree.norm(params),
        "skipped_in_a_row": skipped[0],
        "skipped": skipped[1],
    }
    return TrainState(state.step + 1, params, ema, opt_state, skipped, tuple(more), teacher), metrics


def _average(average: Any, decay: Any, params: Any, age: Any) -> Any:
    """An average of the parameters after a step; a young one forgets its random start quickly."""
    rate = jnp.minimum(decay, (1.0 + age) / (10.0 + age))
    return optax.incremental_update(params, average, 1 - rate)
