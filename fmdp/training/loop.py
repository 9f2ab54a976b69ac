"""The training loop: steps, and what happens between them (reporting, rolling back, saving, ending on a signal)."""

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from fmdp import data
from fmdp.config.phases import phases
from fmdp.data.arrays import as_training_images
from fmdp.data.pipeline import Batches
from fmdp.data.sources import stated_range
from fmdp.errors import InputError
from fmdp.io.levels import UNIT
from fmdp.parallel import preemption
from fmdp.parallel.data_parallel import TrainMode, make_train_mode
from fmdp.training.averages import with_chosen
from fmdp.training.checkpoint import Checkpoints, has_checkpoint
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.reporter import Reporter
from fmdp.training.rollback import Rollback
from fmdp.training.saver import Saver
from fmdp.training.start import Start, announcement
from fmdp.training.state import TrainState, first_state, init_params, init_state
from fmdp.training.step import make_train_step, step_form
from fmdp.training.vectors import take_apart
from fmdp.training.watching import Watch
from fmdp.types import PRNGKey

UNSAVED = "amid skipped updates and not "


def fit(
    config: ConfigDict,
    images: data.Images,
    workdir: pathlib.Path,
    held_out: np.ndarray | None = None,
    start_from: Start | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Train on images [n, H, W, C] until config.train.steps, resuming from the latest checkpoint in the workdir.

    Args:
      images: what `data.load_split` gives, or a plain array of bytes or floats, whose range config.data.range states
        (`levels.find_range`).
      held_out: images [m, H, W, C], on the scale of the training images, that the run is watched on (`watching`); they
        have no effect on it.
      start_from: weights that fit (`start.require_fit`), where the workdir has no checkpoint; random ones unless given.

    Returns:
      The state at the end, over all devices of the run, and what summary.json says of the training. Of several
      averages, the one that was chosen (`averages`) is `ema`.

    Raises:
      InputError: the checkpoint cannot be used, there are no images, no room on the disk, or the updates stay not
        finite (`Rollback`).
      SystemExit: termination was requested (`preemption.watch_signals`), and this step is saved. The code is 128 plus
        the signal.
    """
    own_scale = config.data.source in data.TARGETS  # of a known target, whose points may lie anywhere
    stated = UNIT if own_scale else stated_range(config.data)
    channels = config.data.get("channels", 3)
    images, held_out = as_training_images(images, held_out, stated, channels, bounded=not own_scale)
    images, validation, index = data.set_aside(images, config.train.validation_images, config.seed)
    steps, mode = config.train.steps, _train_mode(config)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    shapes = mode.layout(jax.eval_shape(functools.partial(init_state, config, images.shape[1:]), init_key))
    first = functools.partial(_first_state, config, images.shape[1:], init_key, shapes, start_from)
    with (
        preemption.watch_signals() as requested_signal,  # outermost: the last checkpoint is written after the last step
        contextlib.closing(_batches(config, images)) as batches,
        Checkpoints(workdir, config) as checkpoints,
    ):
        state, progress = _latest_state(config, first, shapes, checkpoints, batches, workdir, start_from)
        if (start := progress["steps"]) >= steps:
            print(f"already trained for {start} steps, not training again", flush=True)
            return with_chosen(config, state, progress), progress
        state = mode.place_state(step_form(config, state))
        step_at = _step_at(config, mode, state)
        numbers = mode.place_state(hyperparameters(config))
        rollback = _rollback(config, images, index, checkpoints, shapes)
        saver = Saver(config, checkpoints, validation, progress)
        watch = Watch(config, held_out)
        placed = data.placed_ahead(batches, mode.place_batch, steps - start)
        with Reporter(config, workdir, start, rollback.observe) as reporter:
            for step, (batch, position) in enumerate(placed, start + 1):
                state, metrics = step_at(step)(state, batch, key, numbers)
                signal_number, last = requested_signal(step), step == steps
                saving = saver.is_due(step) or signal_number > 0
                watched = watch.measure(take_apart(mode.collect(state.ema))) if watch.is_due(step) else {}
                scalars = reporter.report(step, metrics, watched, now=saving)
                kept = saving and (last or rollback.healthy)  # so every checkpoint is a good one
                if rollback.pending and (last or not signal_number):  # a resumed run rolls back by itself
                    state = mode.place_state(step_form(config, rollback.restore(state, step)))
                    reporter.discard_late()
                if kept:
                    progress = saver.save(step, take_apart(mode.collect(state)), scalars, position)
                if signal_number:
                    preemption.end_run(signal_number, f"step {step} is {'' if kept else UNSAVED}saved")
    return with_chosen(config, take_apart(mode.collect(state)), progress), progress


def _train_mode(config: ConfigDict) -> TrainMode:
    return make_train_mode(config.parallel.mode, jax.devices(), config.parallel.fsdp)


def _step_at(config: ConfigDict, mode: TrainMode, state: TrainState) -> Callable[[int], Callable]:
    """The compiled step of training by the number of a step; each phase compiles its own when it begins."""

    def with_share(share: float) -> ConfigDict:
        phase = config.copy_and_resolve_references()
        phase.loss.diagonal_share = share
        return phase

    compiled = [
        (end, mode.compile(functools.partial(make_train_step, with_share(share)), state))
        for end, share in phases(config)
    ]
    return lambda step: next(function for end, function in compiled if step <= end)


def _rollback(
    config: ConfigDict, images: data.Images, index: np.ndarray, checkpoints: Checkpoints, shapes: TrainState
) -> Rollback:
    """Watches over updates that are not finite; `index` has the numbers of the images before any were set aside."""
    records = functools.partial(data.records, images, config.train.batch_size, config.seed)
    limit = min(config.train.max_consecutive_skips, config.train.steps)
    return Rollback(checkpoints, shapes.saved(), limit, lambda step: index[records(step)])


def _batches(config: ConfigDict, images: data.Images) -> Batches:
    share = jax.process_index(), jax.process_count()
    return data.batches(images, config.train.batch_size, config.seed, *share, **data.batch_options(config.data))


def _first_state(
    config: ConfigDict, image_shape: tuple[int, ...], key: PRNGKey, shapes: Any, start_from: Start | None
) -> TrainState:
    """The state at step 0, over all devices."""
    if start_from is not None:
        print(announcement(start_from, config), flush=True)
    elif config.train.start_from:
        raise InputError(f"config.train.start_from={config.train.start_from}: pass its weights to fit, too")
    given = None if start_from is None else start_from.params
    params = jax.device_get(init_params(config, image_shape, key, given))  # numpy: what every process has
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    state: TrainState = jax.jit(functools.partial(first_state, config), out_shardings=shardings)(params)
    print(parameter_overview.get_parameter_overview(state.params, include_stats=False), flush=True)
    return state


def _latest_state(
    config: ConfigDict,
    first: Callable[[], TrainState],
    shapes: Any,
    checkpoints: Checkpoints,
    batches: Batches,
    workdir: pathlib.Path,
    start_from: Start | None,
) -> tuple[TrainState, dict[str, Any]]:
    """The state to begin with, over all devices, and its progress; the batches continue from there."""
    if checkpoints.latest_step is None:
        return first(), {"steps": 0, "seconds": 0.0} | ({"started_from": start_from.record} if start_from else {})
    saved, progress = checkpoints.restore(shapes.saved(), batches, set_aside=True)
    print(f"resumed from step {progress['steps']} in {workdir}", flush=True)
    named, began = config.train.start_from, progress.get("started_from", {}).get("source", "random parameters")
    if named not in ("", began):
        print(f"config.train.start_from={named} is not used: this run has begun, from {began}", flush=True)
    return TrainState.from_checkpoint(saved, progress.get("skipped", 0)), progress


def restore_state(config: ConfigDict, image_shape: tuple[int, ...], workdir: pathlib.Path) -> tuple[TrainState, dict]:
    """The latest state in a workdir as `fit` returns it, and what summary.json says of its training.

    Raises:
      InputError: there is none, or it cannot be used.
    """
    if not has_checkpoint(workdir):
        raise InputError(f"{workdir} holds no checkpoint: train first, with mode=train")
    preemption.stop_watching()
    with Checkpoints(workdir, config, reading=True) as checkpoints:
        shapes = jax.eval_shape(lambda: init_state(config, image_shape, jax.random.key(0)))
        saved, progress = checkpoints.restore(_train_mode(config).layout(shapes).saved())
        state = TrainState.from_checkpoint(saved, progress.get("skipped", 0))
        return with_chosen(config, state, progress), progress
