"""Inverse problems: all solvers on the same measurements, tuned and compared in the same way.

The result is a table of tasks x solvers x settings x seeds. Every solver restores an image from the same measurement.
Solvers are tuned on training images, by PSNR, over the grids of `solver_plan`. Plug-and-play is tuned once for all
lookaheads, by its PSNR at both ends of their range. Without tuning images, every solver takes its published options.
"""

import dataclasses
import pathlib
import re
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.config.tasks import Task
from fmdp.data import Split, mixed_order
from fmdp.errors import InputError
from fmdp.evaluation import network_metrics
from fmdp.evaluation.measures import measure_images, measure_sets, null_intervals, reference_images, summary
from fmdp.evaluation.network_metrics import NetworkMetrics
from fmdp.evaluation.results import Measures, SolverResult, SolverRun, TunedOptions
from fmdp.evaluation.solver_batches import draw_observations, solve_batch
from fmdp.evaluation.solver_matching import MATCHED, match_baselines
from fmdp.evaluation.solver_plan import GRIDS, Options, Plan, Run, fixed_options, plan_runs, tune_solvers
from fmdp.evaluation.solver_records import NO_RECORDS, Part, SolverRecords
from fmdp.io.dataclass_json import from_json, to_json
from fmdp.io.weights import digest_arrays
from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features
from fmdp.operators.noise import Observation
from fmdp.solvers import DivergenceError, raise_if_diverged
from fmdp.types import AverageField, PRNGKey

ENDS = (0.0, 1.0)
"""The lookaheads at which the iterates are shown."""

ITERATES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
SCHEME = 2  # version of the solvers and their draws; raise it when they change, so that kept parts are measured anew
MAX_MAGNITUDE = 1e6  # of an image in [-1, 1]; a larger iterate has diverged, too
LPIPS = "lpips_alex"
SET_IMAGES = 50  # below, a distance between sets of images says little, and LPIPS takes its place where it is measured
DEALS = 200  # random divisions of real images from which the interval of a perception measure is computed


class ComparedImages(NamedTuple):
    """One image of one task.

    Attributes:
      clean: [H, W, C].
      measured: y, in the operator's own shape.
      restored: [H, W, C] by each run that did not fail, in the order of their rows.
      iterates: plug-and-play's, [len(ITERATES), H, W, C] by lookahead.
    """

    clean: np.ndarray
    measured: np.ndarray
    restored: list[tuple[Run, np.ndarray]]
    iterates: dict[float, np.ndarray]


class Reference(NamedTuple):
    """What restorations are measured against: the clean images, real images, and the width of the kernel distance."""

    clean: Array
    real: np.ndarray
    width: Array
    networks: NetworkMetrics


def compare_solvers(
    field: AverageField,
    split: Split,
    tasks: dict[str, Task],
    config: ConfigDict,
    key: PRNGKey,
    networks: NetworkMetrics = network_metrics.NO_NETWORKS,
    folder: pathlib.Path | None = None,
) -> tuple[SolverResult, dict[str, ComparedImages]]:
    """The table of config.inverse on the first test images of a split.

    Args:
      field: a pytree, such as a `jax.tree_util.Partial`.
      split: its training images serve as the real ones, and the first in `mixed_order` tune the solvers; its test
        images are restored.
      tasks: by name.
      config: config.inverse.
      key: of masks, kernels, noise and solvers.
      networks: the measures of published networks.
      folder: where each part is kept once it is measured. Parts that a run of the same images and settings left there
        are not measured again. Remove it when the comparison is complete. None keeps nothing.

    Returns:
      The result, and one image of each task. If a solver diverged or does not admit the operator, its row has the
      reason in `failed` and no measures.

    Raises:
      InputError: a task that cannot be set up.
    """
    tuned_on = mixed_order(split.train_labels)[: config.tuning_images]
    clean, tuning = jnp.asarray(split.test[: config.images]), jnp.asarray(split.train[tuned_on])
    for name, task in tasks.items():
        draw_observations(task, name, clean[:1], key)  # so that a mistake in the last task is found before any work
    real, _ = reference_images(split)
    width = perception.median_distance(features(jnp.asarray(real)))
    reference = Reference(clean, real, width, networks)
    records = NO_RECORDS
    if folder is not None:
        records = SolverRecords(folder, _facts(field, reference, tuning, config, key))
    rows, tuned, pictures = [], [], {}
    for index, (name, task) in enumerate(tasks.items()):
        tuning_key, *keys = jax.random.split(jax.random.fold_in(key, index), config.seeds + 1)
        kept = records.within([index, name, task])
        plan = tune_solvers(field, tuning, name, task, config, tuning_key, kept)
        tuned += [
            TunedOptions(task=name, solver=solver, steps=steps, options=options)
            for (solver, steps), options in plan.items()
        ]
        task_rows, pictures[name] = _run_task(field, name, task, config, plan, keys, reference, kept)
        rows += task_rows
    restored_ones = split._replace(test=split.test[: len(clean)], test_labels=split.test_labels[: len(clean)])
    floor = null_intervals(restored_ones, width, DEALS, jax.random.fold_in(key, len(tasks)))
    return SolverResult(inverse=rows, matched=match_baselines(rows), tuned=tuned, inverse_floor=floor), pictures


def _run_task(
    field: AverageField,
    name: str,
    task: Task,
    config: ConfigDict,
    plan: Plan,
    keys: list[PRNGKey],
    reference: Reference,
    records: SolverRecords,
) -> tuple[list[SolverRun], ComparedImages]:
    """The rows of one task, and the image that is shown of it."""
    observations = [draw_observations(task, name, reference.clean, key) for key in keys]
    rows, restored, by_image = [], [], []
    for run in plan_runs(task, config, plan):
        compute = partial(_run_solver, field, observations, name, run, config.batch_size, keys, reference)
        row, arrays = records.recall(run._asdict(), compute)
        rows.append(from_json(SolverRun, row, "row"))
        restored += [(run, arrays.pop("shown"))] if arrays else []
        by_image.append(arrays)
    rows = _with_changes(rows, by_image, config.knob)
    shown = most_detailed(reference.clean)
    compute = partial(_iterates, field, observations[0], shown, task, config, plan, keys[0])
    _, iterates = records.recall(["iterates", config.schedule, _most_steps(task, config, plan)], compute)
    by_end = {end: iterates[str(end)] for end in ENDS if iterates}
    clean, measured = np.asarray(reference.clean[shown]), np.asarray(observations[0].y[shown])
    return rows, ComparedImages(clean, measured, restored, by_end)


def most_detailed(images: Array) -> int:
    """Which of images [n, H, W, C] is shown: that with the largest squared differences of neighbouring pixels."""
    gray = np.asarray(images).mean(-1)
    return int(np.square(np.diff(gray)).sum((-2, -1)).argmax())


def _run_solver(
    field: AverageField,
    observations: list[Observation],
    name: str,
    run: Run,
    batch: int,
    keys: list[PRNGKey],
    reference: Reference,
) -> Part:
    """One row of the table and, unless the run failed, `shown`, the image that is shown, restored under the first seed.

    Beside it are the measures of every image, [seeds, n] by name.
    """
    identity: dict[str, Any] = dict(task=name, solver=run.solver, knob=run.knob, t_or_lookahead=run.setting)
    try:
        outputs, cost = _restore(field, observations, name, run, batch, keys)
    except (DivergenceError, InputError) as error:
        return to_json(SolverRun(**identity, failed=str(error))), {}
    by_image = {name: x[0] for name, x in measure_images(outputs[None], reference.clean, reference.networks).items()}
    by_image["psnr_clipped"] = distortion.clipped_psnr(outputs, np.asarray(reference.clean))
    by_set: dict[str, np.ndarray] = {}
    if outputs.shape[1] >= SET_IMAGES or LPIPS not in by_image:
        by_set = {name: x[0] for name, x in measure_sets(outputs[None], *reference).items()}
    by_seed = {name: x.mean(1) for name, x in by_image.items()} | by_set
    seeds = [{name: float(by_seed[name][k]) for name in MATCHED if name in by_seed} for k in range(len(keys))]
    row = SolverRun(**identity, steps=run.steps, **cost, measures=summary(by_image, by_set), seeds=seeds)
    return to_json(row), {"shown": outputs[0, most_detailed(reference.clean)]} | by_image


def _with_changes(rows: list[SolverRun], by_image: list[dict[str, np.ndarray]], knob: str) -> list[SolverRun]:
    """The rows with their differences from plug-and-play at t = s with the most steps, on the same images and seeds."""
    ends = [k for k, row in enumerate(rows) if by_image[k] and (row.knob, row.t_or_lookahead) == (knob, 0.0)]
    if not ends:
        return rows
    base = by_image[max(ends, key=lambda k: rows[k].steps or 0)]
    changed = []
    for row, measured in zip(rows, by_image, strict=True):
        change: Measures = {}
        for name, values in measured.items():
            by_pair = (values - base[name]).mean(0)
            change[name] = float(by_pair.mean())
            if len(by_pair) > 1:
                change[f"{name}_sem"] = float(by_pair.std(ddof=1) / np.sqrt(len(by_pair)))
        changed.append(dataclasses.replace(row, change=change or None))
    return changed


def _restore(
    field: AverageField, observations: list[Observation], name: str, run: Run, batch: int, keys: list[PRNGKey]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The images restored under every seed, [seeds, n, H, W, C], and what they cost.

    Raises:
      DivergenceError: an iterate is not finite, or the result absurdly large.
      InputError: the solver does not admit the operator.
    """
    if run.options is None:
        raise DivergenceError(f"{name}: {run.solver} failed at every setting of its grid {GRIDS[run.solver]}")
    outputs, infos, seconds = [], [], []
    for observed, key in zip(observations, keys, strict=True):
        began = time.monotonic()
        x, info = solve_batch(field, observed, _solve_key(observed, key), run.solver, run.options, batch)
        seconds.append((time.monotonic() - began) / len(x))
        raise_if_diverged(info, name, run.solver)
        if (largest := np.abs(x).max()) > MAX_MAGNITUDE:
            raise DivergenceError(f"{name}: {run.solver} diverged to values of {largest:.1g}: reduce its step size")
        outputs.append(x)
        infos.append(info)
    return np.stack(outputs), {
        "data_residual": float(np.mean([info.residual[:, -1] for info in infos])),
        "nfe": float(np.mean([info.evaluations for info in infos])),
        "differentiated": float(np.mean([info.gradients for info in infos])),
        "seconds_per_image": min(seconds),  # the first may have compiled
    }


def _solve_key(observed: Observation, key: PRNGKey) -> PRNGKey:
    """The key from which the solvers draw. Those of the n observations, split(key, n), are fold_in(key, i), i < n."""
    return jax.random.fold_in(key, len(observed.y))


def _iterates(
    field: AverageField, observations: Observation, shown: int, task: Task, config: ConfigDict, plan: Plan, key: PRNGKey
) -> Part:
    """Plug-and-play's iterates on the image that is shown, at both ends of the lookahead, by which they are called."""
    steps, tuned = _most_steps(task, config, plan)
    if tuned is None:
        return None, {}
    one, key = jax.tree.map(lambda x: x[shown : shown + 1], observations), _solve_key(observations, key)
    moments = [round(share * (steps - 1)) for share in ITERATES]
    found = {}
    for lookahead in ENDS:
        options = (
            fixed_options("pnp", steps, config) | {"knob": config.knob, "lookahead": lookahead, "keep": True} | tuned
        )
        found[str(lookahead)] = np.asarray(solve_batch(field, one, key, "pnp", options, 1)[1].iterates)[0, moments]
    return None, found


def _most_steps(task: Task, config: ConfigDict, plan: Plan) -> tuple[int, Options | None]:
    """Plug-and-play's largest number of steps on a task, and its options there."""
    steps = task.get("steps", max(config.steps))
    return steps, plan.get(("pnp", steps))


def _facts(
    field: AverageField, reference: Reference, tuning: Array, config: ConfigDict, key: PRNGKey
) -> dict[str, Any]:
    """What every part of a comparison depends on, as JSON: the images, the network, its measures and the settings."""
    leaves = [*jax.tree.leaves(field), reference.clean, reference.real, tuning, jax.random.key_data(key)]
    arrays = {str(index): np.asarray(leaf) for index, leaf in enumerate(leaves)}
    return {
        "scheme": SCHEME,
        "arrays": digest_arrays(arrays),
        "settings": {name: config[name] for name in ("seeds", "knob", "tuning_images", "batch_size")},
        "network": re.sub(r" at 0x[0-9a-f]+", "", str(jax.tree.structure(field))),
        "measures": [*sorted(reference.networks.weights), reference.networks.small_fid],
        "computed by": [jax.default_backend(), jax.__version__],
        "precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
    }
