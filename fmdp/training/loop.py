"""Training: the step as a pure function of state, batch and key, and the loop around it."""

import contextlib
import functools
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict
from tqdm import tqdm

from fmdp import data
from fmdp.errors import InputError
from fmdp.parallel import preemption, train_modes
from fmdp.training import checkpoint, scalar_log
from fmdp.training.rollback import Rollback
from fmdp.training.state import TrainState, init_state
from fmdp.training.step import Metrics, make_train_step

LOSSES = ("loss", "diagonal", "off_diagonal")


def fit(config: ConfigDict, images: data.Images, workdir: pathlib.Path) -> tuple[TrainState, dict[str, Any]]:
    """Train on images [n, H, W, C] until config.train.steps, going on from the newest checkpoint in the workdir.

    Returns:
      The state at the end, over all devices of the run, and what summary.json says of the training.

    Raises:
      InputError: the checkpoint cannot be used, there are no images, no room on the disk, or the updates stay not
        finite (`Rollback`).
      SystemExit: the run was asked to end (`preemption.watch`); this step is saved. The code is 128 + the signal.
    """
    devices, steps = jax.devices(), config.train.steps
    init_key, key = jax.random.split(jax.random.key(config.seed))
    batch_size = config.train.batch_size
    share = jax.process_index(), jax.process_count()
    iterator = data.batches(images, batch_size, config.seed, *share, config.data.flip, config.data.workers)
    parallel = train_modes.make_train_mode(config.parallel.mode, devices, config.parallel.fsdp)

    def initial():
        return init_state(config, images.shape[1:], init_key)

    shapes = parallel.layout(jax.eval_shape(initial))
    progress: dict[str, Any] = {"steps": 0, "seconds": 0.0}

    with (  # watching outermost: the last checkpoint is still being written after the last step
        preemption.watch_signals() as asked_to_end,
        contextlib.closing(iterator),
        checkpoint.Checkpoints(workdir, config) as checkpoints,
    ):
        if checkpoints.latest_step is not None:
            found, progress = checkpoints.restore(shapes.saved(), iterator, set_aside=True)
            state = TrainState.from_checkpoint(found, progress.get("skipped", 0))
            print(f"resumed from step {progress['steps']} in {workdir}", flush=True)
        start = progress["steps"]
        if start >= steps:
            print(f"already trained for {start} steps, not training again", flush=True)
            return state, progress
        if start == 0:
            state = jax.jit(initial, out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()
            print(parameter_overview.get_parameter_overview(state.params, include_stats=False), flush=True)
        state = parallel.place_state(state)
        step_fn = parallel.compile(functools.partial(make_train_step, config), state)
        clock = time.monotonic() - progress["seconds"]
        late: tuple[int, Metrics] | None = None
        records = functools.partial(data.records, images, batch_size, config.seed)
        rollback = Rollback(checkpoints, shapes.saved(), min(config.train.max_consecutive_skips, steps), records)
        with (
            scalar_log.ScalarLog(workdir, start) as log,
            tqdm(total=steps, initial=start, unit="step", disable=jax.process_index() > 0) as bar,
        ):

            def report(step: int, metrics: Metrics) -> dict[str, float]:
                scalars = {name: float(value) for name, value in jax.device_get(metrics).items()}
                rollback.observe(step, scalars)
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
                kept = saving and (step == steps or not (rollback or scalars["skipped_in_a_row"]))
                if rollback and (step == steps or not signal_number):  # a resumed run comes here by itself
                    in_all = int(jax.device_get(state.skipped)[1])
                    state = parallel.place_state(TrainState.from_checkpoint(rollback.restore(), in_all, np.int32(step)))
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


def restore_state(config: ConfigDict, image_shape: tuple[int, ...], workdir: pathlib.Path) -> tuple[TrainState, dict]:
    """The newest state in a workdir, over all devices of the run, and what summary.json says of its training.

    Raises:
      InputError: there is none, or it cannot be used.
    """
    if not checkpoint.has_checkpoint(workdir):
        raise InputError(f"{workdir} holds no checkpoint: train first, with --mode=train")
    preemption.stop_watching()
    with checkpoint.Checkpoints(workdir, config, reading=True) as checkpoints:
        shapes = jax.eval_shape(lambda: init_state(config, image_shape, jax.random.key(0)))
        parallel = train_modes.make_train_mode(config.parallel.mode, jax.devices(), config.parallel.fsdp)
        found, progress = checkpoints.restore(parallel.layout(shapes).saved())
        return TrainState.from_checkpoint(found, progress.get("skipped", 0)), progress
