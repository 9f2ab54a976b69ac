"""python -m fmdp.main --config=configs/<name>.py [--workdir=runs/<name>] [--mode=...], with the modes listed below."""

import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from fmdp import data
from fmdp.cli import provenance
from fmdp.cli import restore as restore_command
from fmdp.cli.deprecated import rename_flags, warn_renamed
from fmdp.config import tasks as task_lists
from fmdp.config.defaults import as_plain_dict
from fmdp.config.renamed import RENAMED, rename_keys
from fmdp.config.validation import validate, validate_for_devices
from fmdp.errors import InputError, printable, reason
from fmdp.evaluation import known_target, network_metrics, solver_comparison
from fmdp.evaluation.denoising import Sweep, calibrate_lookahead, evaluate_denoising
from fmdp.exact import Gaussian
from fmdp.io.files import is_disk_full, lock_workdir, open_workdir, read_json, write_json
from fmdp.parallel import batching, cluster, mesh
from fmdp.reporting import animation, curves, html_page, panels
from fmdp.reporting import known_target as known_target_figures
from fmdp.reporting import solvers as solver_figures
from fmdp.training import loop, scalar_log
from fmdp.training.state import make_field, make_network
from fmdp.types import PRNGKey

CONFIG = config_flags.DEFINE_config_file("config", help_string="The configuration of the run, a file in configs/.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "none",
    ["none", "auto"],
    "Be one of several processes: auto finds the others.",
)
TIMEOUT = flags.DEFINE_integer("distributed_timeout", 300, "Seconds to wait for all processes.", 1, 86_400)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; runs/<config name> unless given.")
LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"
MODES = ["train_and_evaluate", "train", "evaluate", "inverse", "restore"]
flags.adopt_module_key_flags(restore_command)  # so that --help shows them
MODE = flags.DEFINE_enum("mode", "train_and_evaluate", MODES, "What to do.")


def run(config: ConfigDict, workdir: pathlib.Path, mode: str) -> None:
    """Train and measure what the configuration describes, and leave the results in the workdir."""
    began, compiled = time.monotonic(), scalar_log.compile_seconds()
    split = data.load_split(config.data)
    if mode == "evaluate":
        state, progress = loop.restore_state(config, split.train.shape[1:], workdir)
        data.pin_split(split, workdir / "split.json")
    else:
        with lock_workdir(workdir):
            data.pin_split(split, workdir / "split.json")
            write_json(workdir / "config.json", as_plain_dict(config))
            state, progress = loop.fit(config, split.train, workdir)
    summary = {
        "config": config.name,
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "data": {
            "train_images": len(split.train),
            "test_images": len(split.test),
            "split_hash": split.hash,
            "left_out": len(split.left_out),
        },
        "train": progress,
    }
    if mode != "train":
        started = time.monotonic()
        # Training split the run's key in two, which are its streams 0 and 1.
        keys = [jax.random.fold_in(jax.random.key(config.seed), stream) for stream in (2, 3)]
        field = make_field(make_network(config), batching.replicate(state.ema))
        evaluation, sweeps = evaluate_denoising(field, split, config.evaluate, keys[0])
        curves.write_curves(workdir / "dp_curve.csv", evaluation["denoise"])
        curves.draw_plane(workdir / "dp_plane.png", evaluation)
        if split.test.shape[-1] in (1, 3):  # points of the plane are not pictures
            curves.draw_denoising(workdir / "denoise.png", split.test, sweeps, config.evaluate.figure_images)
        calibration, trials = calibrate_lookahead(field, split.test, sweeps, config.evaluate)
        write_json(workdir / "calibration.json", calibration.to_dict())
        summary |= evaluation | {"calibration": trials, "made": provenance.provenance_of_run(config)}
        if split.target is not None:
            summary |= known_target_results(split.target, split, sweeps, workdir, config, keys[1])
        summary["seconds"] = {"train": progress["seconds"], "evaluate": time.monotonic() - started}
        summary["seconds"] |= {"compile": scalar_log.compile_seconds() - compiled, "total": time.monotonic() - began}
    before = read_previous_summary(workdir)
    same = before.get("train") == progress  # the same network: what else is known of it stays
    if same:
        summary = before | summary
    write_json(workdir / "summary.json", summary)
    if mode != "train":
        pictures = panels.denoising_pictures(split.test, sweeps, config.evaluate.figure_images)
        write_report(workdir, summary, pictures, "inverse" if same else None)
    print(f"results in {workdir}", flush=True)


def compare(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Compare the solvers of inverse problems on the trained field; the results join the others in summary.json."""
    began = time.monotonic()
    split = data.load_split(config.data)
    tasks = task_lists.tasks_of_protocol(config.inverse.protocol, split.test.shape[1:])
    tasks |= {name: task.to_dict() for name, task in config.inverse.tasks.items()}
    if not tasks:
        raise InputError(
            "config.inverse names no tasks: set config.inverse.protocol, or tasks as configs/digits.py does"
        )
    state, progress = loop.restore_state(config, split.train.shape[1:], workdir)
    field = make_field(make_network(config), batching.replicate(state.ema))
    key = jax.random.fold_in(jax.random.key(config.seed), 4)
    networks = network_metrics.load_network_metrics(split, config.evaluate)
    table, pictures = solver_comparison.compare_solvers(field, split, tasks, config.inverse, key, networks)
    rows = table["inverse"]
    solver_figures.write_table(workdir / "inverse.csv", rows)
    solver_figures.draw_planes(workdir / "inverse_plane.png", table, config.inverse.images, config.inverse.seeds)
    solver_figures.draw_strips(workdir / "inverse_strips.png", pictures)
    solver_figures.draw_iterates(workdir / "inverse_iterates.png", pictures)
    before = read_previous_summary(workdir)
    same = before.get("train") == progress
    summary = before if same else {"config": config.name, "train": progress}
    seconds = summary.get("seconds", {}) | {"inverse": time.monotonic() - began}
    summary |= table | {"seconds": seconds, "inverse_made": provenance.provenance_of_run(config)}
    write_json(workdir / "summary.json", summary)
    write_report(workdir, summary, panels.inverse_pictures(pictures), "denoise" if same else None)
    print(f"results in {workdir}", flush=True)


def write_report(workdir: pathlib.Path, summary: dict[str, Any], pictures: panels.Pictures, other: str | None) -> None:
    """Leave the page and the moving picture of a run; the pictures of an `other` group stay as they were."""
    if other:
        pictures = panels.load_pictures(workdir / "pictures.npz", other) | pictures
    panels.save_pictures(workdir / "pictures.npz", pictures)
    html_page.write_page(workdir / "report.html", summary, pictures)
    levels = [view for view in panels.build_panels(summary, pictures) if view.group == "Denoising"]
    if levels:
        animation.write_gif(workdir / "knob.gif", levels[-1])
    print(f"open {workdir / 'report.html'} in a browser and move the slider", flush=True)


def read_previous_summary(workdir: pathlib.Path) -> dict[str, Any]:
    """What an earlier run left in summary.json, empty where there is none or it is not what a run leaves."""
    path = workdir / "summary.json"
    if not path.exists():
        return {}
    try:
        summary = read_json(path)
        html_page.render_page(summary, {})
    except Exception as error:  # whatever a page of anything raises
        logging.warning("%s is left out, it is not what a run leaves: %s", path, reason(error))
        return {}
    return summary


def known_target_results(
    target: known_target.Target,
    split: data.Split,
    sweeps: list[Sweep],
    workdir: pathlib.Path,
    config: ConfigDict,
    key: PRNGKey,
) -> dict[str, Any]:
    """What is known besides where the images come from a known distribution: the truth, and its pictures."""
    levels = known_target.compare_to_exact(target, split.test, sweeps, key)
    known_target_figures.draw_truth(workdir / "truth.png", levels, len(split.test))
    if config.data.source == "mixture":
        known_target_figures.draw_points(workdir / "points.png", split.test, sweeps[len(sweeps) // 2])
    if isinstance(target, Gaussian):
        settled = known_target.plug_and_play_law(target, 0.5, key)
        known_target_figures.draw_plug_and_play(workdir / "plug_and_play.png", settled)
        return {"truth": levels, "plug_and_play": settled}
    if config.data.source != "digits_model":
        return {"truth": levels}
    real, _ = data.digits()
    planar = known_target.two_components(real, config.data.components, config.evaluate.noise_levels, key)
    known_target_figures.draw_samples(workdir / "samples.png", real, split.test)
    known_target_figures.draw_two_components(workdir / "two_components.png", planar)
    return {"truth": levels, "two_components": planar}


def main(_) -> None:
    """Run what the flags ask for."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries' own news only on request
    for name in inapplicable_flags(MODE.value):
        raise InputError(f"--{name} does not go with --mode={MODE.value}: leave one of them out")
    if MODE.value == "restore":
        if DISTRIBUTED.value != "none":
            raise InputError("--mode=restore runs in one process: leave --distributed out")
        mesh.divide_cpu()
        mesh.count_devices()  # so that devices that do not start are told as such
        restore_command.run_restore()
        return
    if CONFIG.value is None:
        raise InputError("--config is missing: name a file in configs/, such as --config=configs/digits.py")
    if DISTRIBUTED.value == "auto":
        cluster.join(TIMEOUT.value)
    else:
        validate(CONFIG.value)
        mesh.divide_cpu(CONFIG.value.parallel.cpu_devices, partial(loop.divides_batch, CONFIG.value))
    validate_for_devices(CONFIG.value, mesh.count_devices())
    workdir = open_workdir(WORKDIR.value or f"runs/{CONFIG.value.name}")
    if MODE.value == "inverse":
        compare(CONFIG.value, workdir)
    else:
        run(CONFIG.value, workdir, MODE.value)


def inapplicable_flags(mode: str) -> list[str]:
    """The flags given that are not for this mode, or for fmdp.bench."""
    restoring = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[restore_command.__name__]]
    foreign = {"restore": ["config", "workdir"], "bench": ["workdir", "mode", "distributed", *restoring]}
    return [name for name in foreign.get(mode, restoring) if flags.FLAGS[name].present]


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line; a wrong one ends the program with one line."""
    try:
        sys.argv = rename_flags(argv)  # where ml_collections looks for the keys of a configuration
        rest = flags.FLAGS(sys.argv)
        if CONFIG.value is not None:
            for old in rename_keys(CONFIG.value):  # a config file that could not be loaded says so only now
                warn_renamed(f"config.{old}", f"config.{RENAMED[old]}")
        return rest
    except Exception as error:  # a configuration is a program, and may raise anything
        exit_with_message(_wrong(error))


def _wrong(error: Exception) -> str:
    """What is wrong with a command line, or with the configuration that it names."""
    cause = error.args[0] if isinstance(error, AttributeError) and error.args else error
    if isinstance(cause, KeyError) and not str(cause).startswith('"Attribute'):
        key, *advice = str(error).replace("\\n", " ").translate(str.maketrans("", "", "\\'\"")).split() or [""]
        return f"the configuration has no key {key}. {' '.join(advice)}"
    said = (str(error).strip().splitlines() or [""])[-1].strip().removeprefix("fmdp.errors.InputError: ")
    if isinstance(error, OSError):
        return f"{said}: --config names a file, such as configs/digits.py"
    if isinstance(error, flags.Error | ValueError | TypeError):
        return said
    return f"--config cannot be used, {type(error).__name__}: {said}"


def exit_with_message(message: str) -> NoReturn:
    """End the program with one line on standard error and exit code 2."""
    print(f"fmdp: {printable(message)[:1000]}", file=sys.stderr)
    sys.exit(2)


def cli(program: Callable[[list[str]], None] = main) -> None:
    """Run a program of the command line, with the mistakes of its user told in one line."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", pathlib.Path.home() / ".cache" / "fmdp" / "jax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    if LEAST_SECONDS.upper() not in os.environ:  # many small programs take as long as a large one
        jax.config.update(LEAST_SECONDS, 0.0)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names are any bytes on a disk
    try:
        cluster.run_process(lambda: app.run(program, flags_parser=parse_flags))
    except InputError as error:
        exit_with_message(str(error))
    except KeyboardInterrupt:
        print("fmdp: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if is_disk_full(error):
            exit_with_message(
                f"{error}: make room, and start the same command again, which goes on from the last checkpoint"
            )
        if error.filename is None:
            raise
        place = error.filename2 or error.filename
        exit_with_message(
            f"{place}: {error.strerror}: see what is there and who may write to it, or name another place"
        )


if __name__ == "__main__":
    cli()
