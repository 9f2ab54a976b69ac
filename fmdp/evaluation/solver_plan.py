"""Which solvers run on a task, at which settings and with how many steps; and how their options are tuned."""

import contextlib
import inspect
import itertools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from fmdp.config.tasks import Task
from fmdp.errors import InputError
from fmdp.evaluation.solver_batches import draw_observations, solve_batch
from fmdp.evaluation.solver_records import NO_RECORDS, SolverRecords
from fmdp.metrics import distortion
from fmdp.solvers import SOLVERS, DivergenceError, raise_if_diverged
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
"""The settings among which each solver is tuned."""

PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "pnp_flow": {
        "denoising": {"exponent": 0.8},
        "gaussian_blur": {"exponent": 0.01},
        "motion_blur": {"exponent": 0.01},
        "super_resolution": {"exponent": 0.3},
        "decimation": {"exponent": 0.3},
        "random_inpainting": {"exponent": 0.01},
    },
}
"""By solver and operator, options that its authors chose for a task (github.com/annegnx/PnP-Flow, scripts/)."""

SCHEDULED = ("pnp", "pnp_flow")
"""The solvers with a schedule of gains."""

STEPS_OF_ETA = 100
"""The published number of steps of DPS, each of which moves an image by eta / steps."""


Options: TypeAlias = dict[str, Any]
"""Keyword arguments of a solver."""

Plan: TypeAlias = dict[tuple[str, int], dict[str, float] | None]
"""The tuned options by solver and number of steps."""


class Run(NamedTuple):
    """One line of the table: a solver, its knob and setting, its steps, and all of its options.

    `knob` is "" and `setting` None for a baseline. `options` is None where every setting of the grid failed.
    """

    solver: str
    knob: str
    setting: float | None
    steps: int
    options: Options | None


def budgets(solver: str, task: Task, config: ConfigDict) -> tuple[int, ...]:
    """The numbers of steps at which a solver runs: all of config.steps for pnp, only the largest for the others.

    A task may ask for more. PnP-Flow gets the same number of evaluations: with five a step, a fifth of the steps. So
    does D-Flow, as published (20 searches against 100 steps of the others), although it costs several times as much.
    """
    most = task.get("steps", max(config.steps))
    if solver == "pnp":
        return tuple(sorted({most, *(steps for steps in config.steps if steps < most)}))
    shared = {"pnp_flow": config.pnp_flow_draws, "d_flow": 5}
    return (max(most // shared.get(solver, 1), 2),)


def fixed_options(solver: str, steps: int, config: ConfigDict) -> Options:
    """The options of a solver that are not tuned."""
    options: Options = {"steps": steps}
    if solver in SCHEDULED:
        options["schedule"] = config.schedule
    return options | ({"noise_draws": config.pnp_flow_draws} if solver == "pnp_flow" else {})


def tune_solvers(
    field: AverageField,
    images: Array,
    name: str,
    task: Task,
    config: ConfigDict,
    key: PRNGKey,
    records: SolverRecords = NO_RECORDS,
) -> Plan:
    """`tune_options` of every solver in config.solvers, at each of its numbers of steps.

    Without images it is `published_options`.
    """

    def tune(solver: str, steps: int) -> dict[str, float] | None:
        if not len(images):
            return published_options(solver, task["operator"], steps, config.schedule)
        found, _ = records.recall(
            ["tuned", solver, fixed_options(solver, steps, config)],
            lambda: (tune_options(field, images, name, task, solver, steps, config, key), {}),
        )
        return found

    return {
        (solver, steps): tune(solver, steps) for solver in config.solvers for steps in budgets(solver, task, config)
    }


def published_options(solver: str, operator: str, steps: int, schedule: str = "published") -> dict[str, float]:
    """The options of a solver that its grid varies, as they were published: its defaults, or those of `PUBLISHED`.

    DPS keeps the length of its published steps. With the safe schedule, PnP-Flow keeps its unit step for an operator of
    norm 1, and plug-and-play takes the same, half of its published one.
    """
    parameters = inspect.signature(SOLVERS[solver]).parameters
    options = {name: float(parameters[name].default) for name in GRIDS[solver]}
    if solver == "dps":
        options["eta"] *= steps / STEPS_OF_ETA
    if solver in SCHEDULED and schedule == "safe":
        options["gain"] = 1.0
    return options | PUBLISHED.get(solver, {}).get(operator, {})


def plan_runs(task: Task, config: ConfigDict, plan: Plan) -> list[Run]:
    """The runs of one task: plug-and-play along its knobs, the chord only at most steps, and each baseline once."""
    runs = []
    for (solver, steps), tuned in plan.items():
        if tuned is None:
            runs.append(Run(solver, "", None, steps, None))
        elif solver != "pnp":
            runs.append(Run(solver, "", None, steps, fixed_options(solver, steps, config) | tuned))
        else:
            with_chord = config.chord and steps == max(budgets(solver, task, config))
            knobs = (config.knob, "chord") if with_chord else (config.knob,)
            for knob, lookahead in itertools.product(knobs, config.lookaheads):
                options = fixed_options(solver, steps, config) | {"knob": knob, "lookahead": float(lookahead)} | tuned
                runs.append(Run(solver, knob, float(lookahead), steps, options))
    return runs


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

    Plug-and-play is judged by its mean over t = s and t = 1.

    Raises:
      InputError: the task cannot be set up.
    """
    observe_key, solve_key = jax.random.split(key)
    observations = draw_observations(task, name, images, observe_key)
    ends = [{"knob": config.knob, "lookahead": end} for end in (0.0, 1.0)] if solver == "pnp" else [{}]

    def psnr(options):
        options = fixed_options(solver, steps, config) | options
        x, info = solve_batch(field, observations, solve_key, solver, options, config.batch_size)
        raise_if_diverged(info, name, solver)
        return float(distortion.psnr(jnp.asarray(x), images).mean())

    scores: list[tuple[float, dict[str, float]]] = []
    for values in itertools.product(*GRIDS[solver].values()):
        options = dict(zip(GRIDS[solver], values, strict=True))
        with contextlib.suppress(DivergenceError, InputError):
            scores.append((sum(psnr(options | end) for end in ends), options))
    return max(scores, key=lambda score: score[0])[1] if scores else None
