"""What can be measured of a trained network, and the files that each measurement leaves."""

import dataclasses
import time
from collections.abc import Callable
from typing import TypeAlias

import jax
from ml_collections import ConfigDict

from fmdp import data
from fmdp.cli.compile_time import compile_seconds
from fmdp.cli.provenance import provenance_of_run
from fmdp.config.tasks import tasks_of_protocol
from fmdp.evaluation import known_target, solver_comparison
from fmdp.evaluation.denoising import Sweep, calibrate_lookahead, evaluate_denoising
from fmdp.evaluation.network_metrics import load_network_metrics
from fmdp.evaluation.results import KnownTargetResult, Measures
from fmdp.evaluation.summary import Provenance, Summary
from fmdp.exact import Gaussian
from fmdp.io.files import write_json
from fmdp.io.run_dir import RunDir
from fmdp.reporting import curves
from fmdp.reporting import known_target as known_target_figures
from fmdp.reporting import solvers as solver_figures
from fmdp.reporting.pictures import Pictures, denoising_pictures, inverse_pictures
from fmdp.types import AverageField, PRNGKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network and its run. `began` and `compiled` are the clock and the compile seconds at the start."""

    config: ConfigDict
    split: data.Split
    field: AverageField
    run: RunDir
    began: float
    compiled: float

    def key(self, stream: int) -> PRNGKey:
        """A key of its own for each stream, from 2 on: training has split the run's key in two."""
        return jax.random.fold_in(jax.random.key(self.config.seed), stream)


PARTS = "inverse"
"""The folder of a run for what a comparison of solvers has measured so far."""

Analysis: TypeAlias = Callable[[Trained, Summary], tuple[Summary, Pictures]]
"""Adds its results to the summary, and returns its pictures."""


def evaluate(trained: Trained, summary: Summary) -> tuple[Summary, Pictures]:
    """The denoising sweep, the calibration of the lookahead and, for a known target, the comparison with the truth."""
    started = time.monotonic()
    config, split, run = trained.config, trained.split, trained.run
    result, sweeps = evaluate_denoising(trained.field, split, config.evaluate, trained.key(2))
    curves.write_curves(run / "dp_curve.csv", result.denoise)
    curves.draw_plane(run / "dp_plane.png", result)
    if split.test.shape[-1] in (1, 3):  # points of the plane are not pictures
        curves.draw_denoising(run / "denoise.png", split.test, sweeps, config.evaluate.figure_images)
    calibration, trials = calibrate_lookahead(trained.field, split.test, sweeps, config.evaluate)
    write_json(run / "calibration.json", calibration.to_dict())
    made = Provenance(**provenance_of_run(config))
    summary = dataclasses.replace(summary.add(result), calibration=trials, made=made)
    if split.target is not None:
        summary = summary.add(compare_with_target(trained, split.target, sweeps))
    seconds = {
        "train": (summary.train or {})["seconds"],
        "evaluate": time.monotonic() - started,
        "compile": compile_seconds() - trained.compiled,
        "total": time.monotonic() - trained.began,
    }
    return _add_seconds(summary, seconds), denoising_pictures(split.test, sweeps, config.evaluate.figure_images)


def compare_with_target(trained: Trained, target: known_target.Target, sweeps: list[Sweep]) -> KnownTargetResult:
    """The sweeps beside the truth, with its figures, where the images come from a known distribution."""
    config, split, run, key = trained.config, trained.split, trained.run, trained.key(3)
    levels = known_target.compare_to_exact(target, split.test, sweeps, key)
    known_target_figures.draw_truth(run / "truth.png", levels, len(split.test))
    if config.data.source == "mixture":
        known_target_figures.draw_points(run / "points.png", split.test, sweeps[len(sweeps) // 2])
    if isinstance(target, Gaussian):
        law = known_target.plug_and_play_law(target, 0.5, key)
        known_target_figures.draw_plug_and_play(run / "plug_and_play.png", law)
        return KnownTargetResult(truth=levels, plug_and_play=law)
    if config.data.source != "digits_model":
        return KnownTargetResult(truth=levels)
    real, _ = data.digits()
    planar = known_target.two_components(real, config.data.components, config.evaluate.noise_levels, key)
    known_target_figures.draw_samples(run / "samples.png", real, split.test)
    known_target_figures.draw_two_components(run / "two_components.png", planar)
    return KnownTargetResult(truth=levels, two_components=planar)


def compare_solvers(trained: Trained, summary: Summary) -> tuple[Summary, Pictures]:
    """The solvers of inverse problems, compared on the tasks of the configuration."""
    config, split, run = trained.config, trained.split, trained.run
    tasks = tasks_of_protocol(config.inverse.protocol, split.test.shape[1:])
    tasks |= {name: task.to_dict() for name, task in config.inverse.tasks.items()}
    networks = load_network_metrics(split, config.evaluate)
    result, compared = solver_comparison.compare_solvers(
        trained.field, split, tasks, config.inverse, trained.key(4), networks, run / PARTS
    )
    solver_figures.write_table(run / "inverse.csv", result.inverse)
    images, seeds = min(config.inverse.images, len(split.test)), config.inverse.seeds
    solver_figures.write_markdown(run / "inverse.md", result.inverse, images, seeds)
    solver_figures.draw_planes(run / "inverse_plane.png", result, images, seeds)
    solver_figures.draw_strips(run / "inverse_strips.png", compared)
    solver_figures.draw_iterates(run / "inverse_iterates.png", compared)
    made = Provenance(**provenance_of_run(config))
    summary = dataclasses.replace(summary.add(result), inverse_made=made)
    return _add_seconds(summary, {"inverse": time.monotonic() - trained.began}), inverse_pictures(compared)


def _add_seconds(summary: Summary, seconds: Measures) -> Summary:
    return dataclasses.replace(summary, seconds=(summary.seconds or {}) | seconds)


ANALYSES: dict[str, tuple[Analysis, ...]] = {
    "train_and_evaluate": (evaluate,),
    "train": (),
    "evaluate": (evaluate,),
    "inverse": (compare_solvers,),
}
"""By mode of a run, what is analysed after training or restoring."""
