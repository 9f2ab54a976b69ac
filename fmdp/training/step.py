"""One step of training as a pure function of state, batch and key."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from fmdp.flow import losses
from fmdp.flow.times import kronecker_times
from fmdp.networks.log_variance import LogVariance
from fmdp.parallel.train_modes import GradientTransform
from fmdp.training.state import TrainState, make_field, make_network, make_optimizer
from fmdp.types import PRNGKey

Batch = dict[str, dict[str, Array]]


Metrics = dict[str, Array]


def make_loss(config: ConfigDict) -> Callable[[Any, Batch, PRNGKey], tuple[Array, Metrics]]:
    """The loss of parameters on a batch, and its parts, all means over the examples."""
    network = make_network(config)
    term = losses.OFF_DIAGONAL[config.loss.off_diagonal]

    def weigh(params, loss, s, t):
        if config.loss.weighting == "none":
            return loss
        log_variance: Any = LogVariance().apply({"params": params["log_variance"]}, s, t)
        return losses.weigh(loss, log_variance, config.loss.weight_bound)

    def on_diagonal(params, key, x1, row):
        t, _ = kronecker_times(key, row)
        x0 = jax.random.normal(jax.random.fold_in(key, row), x1.shape)
        loss = losses.diagonal(make_field(network, params["network"]), x0, x1, t)
        return loss, weigh(params, loss, t, t)

    def off_diagonal(params, key, x1, row):
        a, b = kronecker_times(key, row)
        noise_key, middle_key = jax.random.split(jax.random.fold_in(key, row))
        x0 = jax.random.normal(noise_key, x1.shape)
        s, t = jnp.minimum(a, b), jnp.maximum(a, b)
        u = s + jax.random.uniform(middle_key) * (t - s)
        loss = term(make_field(network, params["network"]), x0, x1, s, u, t)
        return loss, weigh(params, loss, s, t)

    def batch_loss(params, batch, key):
        totals: Array | float = 0.0
        metrics, count = {}, 0
        for name, one in (("diagonal", on_diagonal), ("off_diagonal", off_diagonal)):
            images, rows = batch[name]["image"], batch[name]["row"]
            if len(images):
                loss, weighed = jax.vmap(one, in_axes=(None, None, 0, 0))(params, key, images, rows)
                totals, metrics[name], count = totals + jnp.sum(weighed), jnp.mean(loss), count + len(images)
        return totals / count, metrics | {"loss": totals / count}

    return batch_loss


def accumulate(gradient: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """`gradient` of (params, batch, key) as the mean over the parts of a batch, one after another in memory.

    Exactly the gradient of the whole batch, whose parts are alike and whose noise goes by the row of an example.
    """
    if parts == 1:
        return gradient

    def apart(x):  # so that every device keeps the rows that it has
        return jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)

    def mean(params, batch, key):
        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, key)), None

        batch = jax.tree.map(apart, batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], batch), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.tree.map(lambda x: x / parts, jax.lax.scan(add, zeros, batch)[0])

    return mean


def make_train_step(
    config: ConfigDict, spread: GradientTransform = lambda gradient: gradient
) -> Callable[[TrainState, Batch, PRNGKey], tuple[TrainState, Metrics]]:
    """One step of training: (state, batch, key) -> (state, metrics).

    The key is that of the run; each step folds its number in, so resuming needs no saved key. Where the loss or the
    gradient is not finite the step counts, and nothing else of the state changes.

    Args:
      spread: over several devices, as `parallel.Parallel.compile` gives it.
    """
    gradient = spread(
        accumulate(jax.value_and_grad(make_loss(config), has_aux=True), config.train.grad_accumulation_steps)
    )
    optimizer = make_optimizer(config)
    decay = 0.5 ** (config.train.batch_size / config.ema.half_life)

    def train_step(state, batch, key):
        (_, metrics), grads = gradient(state.params, batch, jax.random.fold_in(key, state.step))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A young average forgets its random start quickly.
        rate = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(params["network"], state.ema, 1 - rate)
        gradient_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(gradient_norm)
        params, ema, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, ema, opt_state),
            (state.params, state.ema, state.opt_state),
        )
        skipped = jnp.where(finite, state.skipped * jnp.array([0, 1]), state.skipped + 1)
        metrics |= {
            "gradient_norm": gradient_norm,
            "update_norm": optax.tree.norm(updates),
            "parameter_norm": optax.tree.norm(params),
            "skipped_in_a_row": skipped[0],
            "skipped": skipped[1],
        }
        return TrainState(state.step + 1, params, ema, opt_state, skipped), metrics

    return train_step
