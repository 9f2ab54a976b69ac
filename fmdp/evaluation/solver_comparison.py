"""Inverse problems: every solver on the same measurements, along the whole knob, tuned and compared alike.

A table of tasks x solvers x settings x seeds. Of each image every solver is given the same y. Solvers are tuned on
training images, by PSNR, over the grids named here; plug-and-play once for all its lookaheads, at both ends of them.
"""

import contextlib
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp import operators
from fmdp.config.tasks import Task
from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.evaluation import network_metrics
from fmdp.evaluation.denoising import measure_restorations, null_intervals, reference_images
from fmdp.evaluation.network_metrics import NetworkMetrics
from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features
from fmdp.operators.noise import GaussianNoise, LaplaceNoise, Noise, Observation, PoissonNoise, observe
from fmdp.parallel.batching import in_batches, shard_rows
from fmdp.solvers import SOLVERS, STATIC, DivergenceError, Info, raise_if_diverged
from fmdp.types import AverageField, PRNGKey

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "pnp": {"gain": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), "exponent": (0.05, 0.5, 1.0)},
    "pnp_flow": {"gain": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0), "exponent": (0.05, 0.5, 1.0)},
    "ot_ode": {"start": (0.1, 0.2, 0.4, 0.6, 0.8)},
    "dps": {"eta": (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)},
    "flow_priors": {"lam": (1e2, 1e3, 1e4, 1e5), "eta": (0.01, 0.03, 0.1)},
    "d_flow": {"lam": (0.001, 0.01, 0.1)},
    "flower": {"spread": (0.0, 0.5, 1.0)},
}
"""The settings among which each solver is tuned, the published ones among them."""

ONE_BY_ONE = ("d_flow",)  # see there
NOISES: dict[str, Callable[[float], Noise]] = {
    "sigma": lambda sigma: GaussianNoise(sigma=sigma),
    "peak": lambda peak: PoissonNoise(peak=peak),
    "laplace": lambda scale: LaplaceNoise(scale=scale),
}
ITERATES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
MAX_MAGNITUDE = 1e6  # of images in [-1, 1]; beyond, an iterate is finite by chance
MATCHED = ("mse", "kernel_distance")
DEALS = 200  # behind the interval of what is chance in perception


class Run(NamedTuple):
    """One line of the table: a solver, its knob and setting, and all of its options (None: every setting failed)."""

    solver: str
    knob: str
    setting: float | None
    options: dict[str, Any] | None

    @property
    def label(self) -> str:
        """Names the run in a picture."""
        if self.setting is None or self.options is None:
            return self.solver
        return f"{self.solver} {self.knob} {self.setting:g} ({self.options['steps']} steps)"


class ComparedImages(NamedTuple):
    """One image of one task: clean, measured, restored by the labels of the runs, and plug-and-play's iterates.

    `iterates` are [len(ITERATES), H, W, C] by lookahead.
    """

    clean: np.ndarray
    measured: np.ndarray
    restored: dict[str, np.ndarray]
    iterates: dict[float, np.ndarray]


def compare_solvers(
    field: AverageField,
    split: Split,
    tasks: dict[str, Task],
    config: ConfigDict,
    key: PRNGKey,
    networks: NetworkMetrics = network_metrics.NO_NETWORKS,
) -> tuple[dict[str, Any], dict[str, ComparedImages]]:
    """The table of config.inverse on the first test images of a split.

    Args:
      field: a pytree, such as a `jax.tree_util.Partial`.
      split: its training images tune the solvers and stand for the real ones, its test images are restored.
      tasks: by name.
      config: config.inverse.
      key: of masks, kernels, noise and solvers.
      networks: the measures of published networks.

    Returns:
      {"inverse": rows, "matched": rows, "tuned": rows, "inverse_floor": what the perception measures come to between
      as many real images and the real ones} for summary.json, and a picture of each task. A row whose solve diverged,
      or that the operator does not admit, has "failed" with the reason instead of its measures.

    Raises:
      InputError: a task that cannot be set up.
    """
    clean, tuning = jnp.asarray(split.test[: config.images]), jnp.asarray(split.train[: config.tuning_images])
    for name, task in tasks.items():
        draw_observations(task, name, clean[:1], key)  # so that a mistake in the last task costs no time
    real, _ = reference_images(split)
    width = perception.median_distance(features(jnp.asarray(real)))
    rows, choices, pictures = [], [], {}
    for index, (name, task) in enumerate(tasks.items()):
        tuning_key, *keys = jax.random.split(jax.random.fold_in(key, index), config.seeds + 1)
        chosen = {
            (solver, steps): tune_options(field, tuning, name, task, solver, steps, config, tuning_key)
            for solver in config.solvers
            for steps in budgets(solver, task, config)
        }
        choices += [
            {"task": name, "solver": solver, "steps": steps, "options": options}
            for (solver, steps), options in chosen.items()
        ]
        observations = [draw_observations(task, name, clean, seed_key) for seed_key in keys]
        restored: dict[str, np.ndarray] = {}
        for run in plan_runs(task, config, chosen):
            row: dict[str, Any] = {"task": name, "solver": run.solver, "knob": run.knob, "t_or_lookahead": run.setting}
            try:
                outputs, cost = _restore(field, observations, name, run, config.batch_size, keys)
                row |= {"steps": run.options["steps"]} | cost | _measured(outputs, clean, real, width, networks)  # type: ignore[index]
                restored[run.label] = outputs[0, 0]
            except (DivergenceError, InputError) as error:
                row["failed"] = str(error)
            rows.append(row)
        iterates = _iterates(field, observations[0], task, config, chosen, keys[0])
        pictures[name] = ComparedImages(np.asarray(clean[0]), np.asarray(observations[0].y[0]), restored, iterates)
    restored_ones = split._replace(test=split.test[: len(clean)], test_labels=split.test_labels[: len(clean)])
    floor = null_intervals(restored_ones, width, DEALS, jax.random.fold_in(key, len(tasks)))
    return {"inverse": rows, "matched": matched(rows), "tuned": choices, "inverse_floor": floor}, pictures


def budgets(solver: str, task: Task, config: ConfigDict) -> tuple[int, ...]:
    """The numbers of steps at which a solver is run: all of config.steps for pnp, for the others only the most.

    The task may ask for more. A step of PnP-Flow is five evaluations, so that it has as many as the others; D-Flow has
    several times as many, its published twenty searches where the others have a hundred steps.
    """
    most = task.get("steps", max(config.steps))
    if solver == "pnp":
        return tuple(sorted({most, *(steps for steps in config.steps if steps < most)}))
    return (max({"pnp_flow": most // 5, "d_flow": most // 5}.get(solver, most), 2),)


def plan_runs(task: Task, config: ConfigDict, chosen: dict[tuple[str, int], dict[str, float] | None]) -> list[Run]:
    """The runs of one task: plug-and-play along both knobs (the chord at most steps only), and each baseline once."""
    runs = []
    for (solver, steps), tuned in chosen.items():
        if tuned is None:
            runs.append(Run(solver, "", None, None))
        elif solver != "pnp":
            runs.append(Run(solver, "", None, {"steps": steps} | tuned))
        else:
            knobs = (config.knob, "chord") if steps == max(budgets(solver, task, config)) else (config.knob,)
            for knob, lookahead in itertools.product(knobs, config.lookaheads):
                options = {"steps": steps, "knob": knob, "lookahead": float(lookahead)} | tuned
                runs.append(Run(solver, knob, float(lookahead), options))
    return runs


def draw_observations(task: Task, name: str, images: Array, key: PRNGKey) -> Observation:
    """The measurements of images [n, H, W, C]: masks, kernels and noise are drawn anew for each; a batched Observation.

    Raises:
      InputError: an operator, a parameter or a noise that is not known or cannot be used.
    """
    given = [noise for noise in NOISES if noise in task]
    if "operator" not in task or len(given) != 1:
        raise InputError(f"task {name}: name its operator, and one of sigma, peak and laplace for its noise")
    parameters = {key: value for key, value in task.items() if key not in ("operator", "steps", *NOISES)}

    def one(x, key):
        operator_key, noise_key = jax.random.split(key)
        operator = operators.make(task["operator"], x.shape, operator_key, **parameters)
        noise = NOISES[given[0]](task[given[0]])
        return observe(operator, noise, x, noise_key)

    try:
        return jax.vmap(one)(images, jax.random.split(key, len(images)))
    except InputError as error:
        raise InputError(f"task {name}: {error}") from error


def solve_batch(
    field: AverageField, observations: Observation, key: PRNGKey, solver: str, options: dict[str, Any], batch: int
) -> tuple[np.ndarray, Info]:
    """Observations restored in batches, [n, H, W, C]; one compilation serves all values of options that are traced."""
    numbers = {name: jnp.float32(value) for name, value in options.items() if name not in STATIC[solver]}
    static = tuple(sorted((name, value) for name, value in options.items() if name in STATIC[solver]))
    n = len(observations.y)
    # As a list of arrays, because observations look at their own values, which several processes only have a part of.
    arrays, form = jax.tree.flatten((observations, jax.random.key_data(jax.random.split(key, n))))
    restore = partial(_solve, field, numbers, form=form, solver=solver, static=static)
    return in_batches(restore, arrays, min(batch, n))


@partial(jax.jit, static_argnames=("form", "solver", "static"))
def _solve(
    field: AverageField,
    numbers: dict[str, Array],
    arrays: list[Array],
    form: jax.tree_util.PyTreeDef,
    solver: str,
    static: tuple,
) -> tuple[Array, Info]:
    """The solver on the rows of (observations, data of their keys) with these arrays, each device on its own."""

    def rows(shared, arrays):
        field, numbers = shared
        given = jax.tree.unflatten(form, arrays)

        def one(given):
            observed, key = given
            return SOLVERS[solver](field, observed, jax.random.wrap_key_data(key), **dict(static), **numbers)

        return jax.lax.map(one, given) if solver in ONE_BY_ONE else jax.vmap(one)(given)

    return shard_rows(rows)((field, numbers), arrays)


def tune_options(
    field: AverageField,
    images: Array,
    name: str,
    task: Task,
    solver: str,
    steps: int,
    config: ConfigDict,
    key: PRNGKey,
) -> dict[str, float] | None:
    """The setting of the solver's grid with the best mean PSNR on the given images; None where every one failed.

    That of plug-and-play is the mean over t = s and t = 1.

    Raises:
      InputError: the task cannot be set up.
    """
    observe_key, solve_key = jax.random.split(key)
    observations = draw_observations(task, name, images, observe_key)
    ends = [{"knob": config.knob, "lookahead": end} for end in (0.0, 1.0)] if solver == "pnp" else [{}]

    def psnr(options):
        x, info = solve_batch(field, observations, solve_key, solver, {"steps": steps} | options, config.batch_size)
        raise_if_diverged(info, name, solver)
        return float(distortion.psnr(jnp.asarray(x), images).mean())

    scores: list[tuple[float, dict[str, float]]] = []
    for values in itertools.product(*GRIDS[solver].values()):
        options = dict(zip(GRIDS[solver], values, strict=True))
        with contextlib.suppress(DivergenceError, InputError):
            scores.append((sum(psnr(options | end) for end in ends), options))
    return max(scores, key=lambda score: score[0])[1] if scores else None


def _restore(
    field: AverageField, observations: list[Observation], name: str, run: Run, batch: int, keys: list[PRNGKey]
) -> tuple[np.ndarray, dict[str, float]]:
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
        x, info = solve_batch(field, observed, jax.random.fold_in(key, 1), run.solver, run.options, batch)
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


def _measured(
    outputs: np.ndarray, clean: Array, real: np.ndarray, width: Array, networks: NetworkMetrics
) -> dict[str, Any]:
    """The measures over all seeds, and those of each seed that are matched."""
    (row,) = measure_restorations(outputs[None], clean, real, width, networks)
    by_seed = measure_restorations(outputs[:, None], clean, real, width, network_metrics.NO_NETWORKS)
    return row | {"seeds": [{name: seed[name] for name in MATCHED} for seed in by_seed]}


def _iterates(field, observations, task, config, chosen, key) -> dict[float, np.ndarray]:
    """Plug-and-play's iterates on the first image at both ends of the lookahead."""
    steps = task.get("steps", max(config.steps))
    if chosen.get(("pnp", steps)) is None:
        return {}
    first = jax.tree.map(lambda x: x[:1], observations)
    shown = [round(share * (steps - 1)) for share in ITERATES]
    found = {}
    for lookahead in (0.0, 1.0):
        options = {"steps": steps, "knob": config.knob, "lookahead": lookahead, "keep": True} | chosen["pnp", steps]
        found[lookahead] = np.asarray(solve_batch(field, first, key, "pnp", options, 1)[1].iterates)[0, shown]
    return found


def matched(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each baseline against plug-and-play's curve over the lookahead, at equal distortion and at equal perception.

    Distortion is MSE, perception the kernel distance. Both means over the seeds; "ahead" is "pnp" where in every seed
    the curve passes below or left of the baseline, the baseline's name where in every seed it passes above it, "even"
    where the seeds differ, and "apart" where the baseline lies beyond an end of the curve: better in one measure than
    all of it, worse in the other.
    """
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        fine = [row for row in rows if row["task"] == task and "failed" not in row]
        most = max((row["steps"] for row in fine if row["solver"] == "pnp"), default=0)
        curve = [r for r in fine if r["solver"] == "pnp" and r["knob"] != "chord" and r["steps"] == most]
        for row in fine:
            if row["solver"] == "pnp" or not curve:
                continue
            verdicts = {
                _ahead(seed, [point["seeds"][k] for point in curve], row["solver"])
                for k, seed in enumerate(row["seeds"])
            }
            found.append(
                {"task": task, "solver": row["solver"]}
                | {name: row[name] for name in ("mse", "psnr", "kernel_distance", "nfe")}
                | {f"pnp_{other}_at_equal_{name}": _at(row, curve, name, other) for name, other in _PAIRS}
                | {"ahead": verdicts.pop() if len(verdicts) == 1 else "even"}
            )
    return found


_PAIRS = (MATCHED, MATCHED[::-1])


def _at(point: dict[str, Any], curve: list[dict[str, Any]], name: str, other: str) -> float | None:
    """The least `other` that the curve attains with at most the point's `name`; None where it attains none.

    The curve is taken as straight between those of its points that no other one beats in both measures.
    """
    best: list[tuple[float, float]] = []
    for x, y in sorted((row[name], row[other]) for row in curve):
        if not best or y < best[-1][1]:
            best.append((x, y))
    if point[name] < best[0][0]:
        return None
    xs, ys = np.array(best).T
    return float(np.interp(point[name], xs, ys))


def _ahead(point: dict[str, float], curve: list[dict[str, float]], solver: str) -> str:
    """Who is ahead in one seed: see `matched`."""
    values = [(_at(point, curve, name, other), point[other]) for name, other in _PAIRS]
    if any(ours is not None and ours <= theirs for ours, theirs in values):
        return "pnp"
    if all(ours is None for ours, _ in values):  # better than all of the curve in both
        return solver
    inside = any(
        ours is not None and point[name] <= max(row[name] for row in curve)
        for (ours, _), (name, _) in zip(values, _PAIRS, strict=True)
    )
    return solver if inside else "apart"
