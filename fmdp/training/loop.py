"""Training: the step as a pure function of state, batch and key, and the loop around it."""

import contextlib
import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from flax import struct
from jax import Array
from jax.tree_util import Partial
from ml_collections import ConfigDict
from tqdm import tqdm

from fmdp import data, networks
from fmdp.errors import InputError
from fmdp.flow import losses
from fmdp.networks.log_variance import LogVariance
from fmdp.parallel import mesh as parallel_modes
from fmdp.parallel import preemption
from fmdp.parallel.mesh import Spread
from fmdp.training import checkpoint, scalar_log
from fmdp.training.rollback import Setback
from fmdp.types import AverageField, PRNGKey

Batch = dict[str, dict[str, Array]]
Metrics = dict[str, Array]
LOSSES = ("loss", "diagonal", "off_diagonal")


@struct.dataclass
class Saved:
    """What a checkpoint holds of a state."""

    step: Any
    params: Any
    ema: Any
    opt_state: Any


@struct.dataclass
class TrainState(Saved):
    """Everything that training carries from one step to the next.

    `skipped` [2] counts the updates left out because they were not finite: in a row up to now, and in all.
    """

    skipped: Any

    def saved(self) -> Saved:
        """What a checkpoint holds; the counts go into its progress."""
        return Saved(self.step, self.params, self.ema, self.opt_state)

    @classmethod
    def going_on(cls, saved: Saved, skipped: int, step: Any = None) -> "TrainState":
        """From a checkpoint, with so many updates skipped before it; at its own step unless given."""
        step = saved.step if step is None else step
        return cls(step, saved.params, saved.ema, saved.opt_state, np.array([0, skipped], np.int32))


def make_network(config: ConfigDict) -> nn.Module:
    """The backbone that config.network describes."""
    options = dict(config.network)
    name = options.pop("name")  # lists as tuples, so that a network can be hashed
    return networks.make(name, {key: tuple(x) if isinstance(x, list) else x for key, x in options.items()})


def make_field(network: nn.Module, params: Any) -> AverageField:
    """The average field that a network is at given parameters: a pytree, so it can be passed to compiled functions."""
    return Partial(_apply(network), {"params": params})


@functools.lru_cache(maxsize=8)
def _apply(network: nn.Module) -> Callable[..., Array]:
    """One function for all equal networks, so that what is compiled for one of them serves the others."""
    return cast(Callable[..., Array], network.apply)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Clipped Adam (AdamW with weight decay) with warm-up and cosine decay; the log-variance learns slower."""
    c = config.optimizer
    if c.decay:
        warmup = min(c.warmup_steps, config.train.steps // 2)
        schedule = optax.warmup_cosine_decay_schedule(0.0, c.learning_rate, warmup, config.train.steps)
    else:
        schedule = optax.linear_schedule(0.0, c.learning_rate, max(c.warmup_steps, 1))
    slower = optax.partition(
        {"network": optax.identity(), "log_variance": optax.scale(config.loss.weight_learning_rate)},
        lambda params: {name: name for name in params},
    )
    return optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        optax.adamw(schedule, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay),
        slower,
    )


def fits(config: ConfigDict, devices: int) -> bool:
    """Whether so many devices share a batch evenly, and divide it into the parts that one device would."""
    size, share, parts = config.train.batch_size, config.loss.diagonal_share, config.train.accumulate
    same = data.diagonal_count(size, share, devices * parts) == data.diagonal_count(size, share, parts)
    return size % (devices * parts) == 0 and same


def init_state(config: ConfigDict, image_shape: tuple[int, ...], key: PRNGKey) -> TrainState:
    """The state at step 0 for images of shape [H, W, C]."""
    time = jnp.zeros(())
    network_key, weight_key = jax.random.split(key)
    params = {"network": make_network(config).init(network_key, jnp.zeros(image_shape), time, time)["params"]}
    if config.loss.weighting == "learned":
        params["log_variance"] = LogVariance().init(weight_key, time, time)["params"]
    opt_state = make_optimizer(config).init(params)
    ema = jax.tree.map(jnp.copy, params["network"])  # no shared buffers, so that a step may take the state over
    return TrainState(jnp.zeros((), jnp.int32), params, ema, opt_state, skipped=jnp.zeros(2, jnp.int32))


def lattice(key: PRNGKey, row: Array) -> tuple[Array, Array]:
    """Two uniform numbers for the example in this row of the batch.

    The rows of one batch fill the unit square evenly (a Kronecker lattice with one random shift per batch), which
    takes the luck of the draw of times out of the loss; each row by itself is uniform.
    """
    steps = jnp.array([0.7548776662466927, 0.5698402909980532])  # 1/g, 1/g^2 with g^3 = g + 1
    u = (jax.random.uniform(key, (2,)) + row * steps) % 1.0
    return u[0], u[1]


def make_loss(config: ConfigDict) -> Callable[[Any, Batch, PRNGKey], tuple[Array, Metrics]]:
    """The loss of parameters on a batch, and its parts, all means over the examples."""
    network = make_network(config)
    term = losses.OFF_DIAGONAL[config.loss.off_diagonal]

    def weigh(params, loss, s, t):
        if config.loss.weighting == "none":
            return loss
        return losses.weigh(
            loss, LogVariance().apply({"params": params["log_variance"]}, s, t), config.loss.weight_bound
        )

    def on_diagonal(params, key, x1, row):
        t, _ = lattice(key, row)
        x0 = jax.random.normal(jax.random.fold_in(key, row), x1.shape)
        loss = losses.diagonal(make_field(network, params["network"]), x0, x1, t)
        return loss, weigh(params, loss, t, t)

    def off_diagonal(params, key, x1, row):
        a, b = lattice(key, row)
        noise_key, middle_key = jax.random.split(jax.random.fold_in(key, row))
        x0 = jax.random.normal(noise_key, x1.shape)
        s, t = jnp.minimum(a, b), jnp.maximum(a, b)
        u = s + jax.random.uniform(middle_key) * (t - s)
        loss = term(make_field(network, params["network"]), x0, x1, s, u, t)
        return loss, weigh(params, loss, s, t)

    def batch_loss(params, batch, key):
        totals, metrics, count = 0.0, {}, 0
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
    config: ConfigDict, spread: Spread = lambda gradient: gradient
) -> Callable[[TrainState, Batch, PRNGKey], tuple[TrainState, Metrics]]:
    """One step of training: (state, batch, key) -> (state, metrics).

    The key is that of the run; each step folds its number in, so resuming needs no saved key. Where the loss or the
    gradient is not finite the step counts, and nothing else of the state changes.

    Args:
      spread: over several devices, as `parallel.Parallel.compile` gives it.
    """
    gradient = spread(accumulate(jax.value_and_grad(make_loss(config), has_aux=True), config.train.accumulate))
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


def train(config: ConfigDict, images: data.Images, workdir: pathlib.Path) -> tuple[TrainState, dict[str, Any]]:
    """Train on images [n, H, W, C] until config.train.steps, going on from the newest checkpoint in the workdir.

    Returns:
      The state at the end, over all devices of the run, and what summary.json says of the training.

    Raises:
      InputError: the checkpoint cannot be used, there are no images, no room on the disk, or the updates stay not
        finite (`Setback`).
      SystemExit: the run was asked to end (`preemption.watch`); this step is saved. The code is 128 + the signal.
    """
    devices, steps = jax.devices(), config.train.steps
    init_key, key = jax.random.split(jax.random.key(config.seed))
    batch_size = config.train.batch_size
    diagonal = data.diagonal_count(batch_size, config.loss.diagonal_share, len(devices) * config.train.accumulate)
    share = jax.process_index(), jax.process_count()
    iterator = data.batches(images, batch_size, diagonal, config.seed, *share, config.data.flip, config.data.workers)
    parallel = parallel_modes.make(config.parallel.mode, devices, config.parallel.fsdp)

    def initial():
        return init_state(config, images.shape[1:], init_key)

    shapes = parallel.layout(jax.eval_shape(initial))
    progress: dict[str, Any] = {"steps": 0, "seconds": 0.0}

    with (  # watching outermost: the last checkpoint is still being written after the last step
        preemption.watch() as asked_to_end,
        contextlib.closing(iterator),
        checkpoint.Checkpoints(workdir, config) as checkpoints,
    ):
        if checkpoints.latest_step is not None:
            found, progress = checkpoints.restore(shapes.saved(), iterator, set_aside=True)
            state = TrainState.going_on(found, progress.get("skipped", 0))
            print(f"resumed from step {progress['steps']} in {workdir}", flush=True)
        start = progress["steps"]
        if start >= steps:
            print(f"already trained for {start} steps, not training again", flush=True)
            return state, progress
        if start == 0:
            state = jax.jit(initial, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()
            print(parameter_overview.get_parameter_overview(state.params, include_stats=False), flush=True)
        state = parallel.place_state(state)
        step_fn = parallel.compile(lambda spread: make_train_step(config, spread), state)
        clock = time.monotonic() - progress["seconds"]
        late: tuple[int, Metrics] | None = None
        records = functools.partial(data.records, images, batch_size, config.seed)
        setback = Setback(checkpoints, shapes.saved(), min(config.train.skip_limit, steps), records)
        with (
            scalar_log.ScalarLog(workdir, start) as log,
            tqdm(total=steps, initial=start, unit="step", disable=jax.process_index() > 0) as bar,
        ):

            def report(step: int, metrics: Metrics) -> dict[str, float]:
                scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
                setback.look(step, scalars)
                rate = bar.format_dict["rate"] or 0.0
                log.write(step, scalars | {"examples_per_second": rate * batch_size})
                bar.set_postfix_str(f"loss {scalars['loss']:.4f}, {rate * batch_size:.0f} examples/s")
                return scalars

            for step in range(start + 1, steps + 1):
                state, metrics = step_fn(state, parallel.place_batch(next(iterator)), key)
                bar.update()
                signal_number = asked_to_end(step)
                saving = step % config.train.checkpoint_every == 0 or step == steps or signal_number
                # Reported one interval late, the numbers are ready and the device never waits for the host.
                if step % config.train.log_every == 0 or saving:
                    if late is not None:
                        report(*late)
                    late = (step, metrics)
                if saving:
                    scalars, late = report(step, metrics), None
                # A state in the middle of skipped updates is not saved, so that every checkpoint is a good one.
                kept = saving and (step == steps or not (setback or scalars["skipped_in_a_row"]))
                if setback and (step == steps or not signal_number):  # a resumed run comes here by itself
                    in_all = int(jax.device_get(state.skipped)[1])
                    state = parallel.place_state(TrainState.going_on(setback.go_back(), in_all, np.int32(step)))
                    late = None
                if kept:
                    seconds = time.monotonic() - clock
                    progress = {
                        "steps": step,
                        "seconds": seconds,
                        "examples_per_second": step * batch_size / seconds,
                        "skipped": int(scalars["skipped"]),
                        **{name: x for name, x in scalars.items() if name in LOSSES and math.isfinite(x)},
                    }
                    checkpoints.save(step, parallel.collect(state).saved(), iterator, progress)
                if signal_number:
                    done = "saved" if kept else "not saved amid skipped updates"
                    print(f"asked to end: step {step} is {done}, the same command goes on from there", flush=True)
                    raise SystemExit(128 + signal_number)
    return parallel.collect(state), progress


def restore(config: ConfigDict, image_shape: tuple[int, ...], workdir: pathlib.Path) -> tuple[TrainState, dict]:
    """The newest state in a workdir, over all devices of the run, and what summary.json says of its training.

    Raises:
      InputError: there is none, or it cannot be used.
    """
    if not checkpoint.exists(workdir):
        raise InputError(f"{workdir} holds no checkpoint: train first, with --mode=train")
    preemption.no_more()
    with checkpoint.Checkpoints(workdir, config, reading=True) as checkpoints:
        shapes = jax.eval_shape(lambda: init_state(config, image_shape, jax.random.key(0)))
        parallel = parallel_modes.make(config.parallel.mode, jax.devices(), config.parallel.fsdp)
        found, progress = checkpoints.restore(parallel.layout(shapes).saved())
        return TrainState.going_on(found, progress.get("skipped", 0)), progress
