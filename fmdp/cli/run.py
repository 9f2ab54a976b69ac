"""One run: train or restore a network, analyse it, and leave the results in the folder of the run."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from fmdp import data
from fmdp.cli.analyses import ANALYSES, PARTS, Trained
from fmdp.cli.compile_time import compile_seconds
from fmdp.cli.deprecated import warn_renamed
from fmdp.cli.start_from import read_start, take_prior
from fmdp.config.defaults import as_plain_dict
from fmdp.config.renamed import RENAMED, rename_keys
from fmdp.config.validation import validate, validate_for_devices
from fmdp.errors import InputError, require_known
from fmdp.evaluation.solver_records import SolverRecords
from fmdp.evaluation.summary import SCHEMA_VERSION, Summary, read_summary
from fmdp.io.dataclass_json import to_json
from fmdp.io.files import write_json
from fmdp.io.run_dir import RunDir
from fmdp.parallel import batching, mesh
from fmdp.parallel.precision import use_precision
from fmdp.reporting.pictures import Pictures
from fmdp.reporting.report import write_report
from fmdp.training import loop
from fmdp.training.start import Start
from fmdp.training.state import TrainState, make_field, make_network
from fmdp.types import AverageField


def run(
    config: ConfigDict, workdir: str | os.PathLike | None = None, mode: str = "train_and_evaluate"
) -> dict[str, Any]:
    """One run from Python, such as a notebook: what `python -m fmdp.main` does, without flags and compile cache.

    >>> from fmdp.config.defaults import default_config
    >>> run(default_config(), "runs/first", "trane")
    Traceback (most recent call last):
    fmdp.errors.InputError: fmdp.run: unknown mode 'trane', did you mean 'train'?; known: train_and_evaluate, train, ...

    It takes the devices that JAX has. To divide a CPU, set JAX_NUM_CPU_DEVICES before JAX starts.

    Args:
      config: from `config.defaults.default_config()`, or `get_config()` of a file in configs/. It is not changed.
      workdir: the folder of the run; runs/<config.name> by default.
      mode: train_and_evaluate, train, evaluate or inverse.

    Returns:
      What summary.json in the folder holds.

    Raises:
      InputError: the configuration, the mode, the data, the folder or a checkpoint cannot be used.
    """
    if not isinstance(config, ConfigDict):
        remedy = "pass a ConfigDict, such as fmdp.config.defaults.default_config()"
        raise InputError(f"fmdp.run(config={' '.join(repr(config).split())[:60]}): {remedy}")
    if mode == "restore":
        raise InputError("fmdp.run(mode='restore'): call fmdp.restore(fmdp.load(checkpoint), image, request)")
    if mode == "benchmark":
        raise InputError("fmdp.run(mode='benchmark'): call fmdp.main.cli(['--mode=benchmark', '--config=...', ...])")
    require_known("fmdp.run: unknown mode", mode, ANALYSES)
    config = config.copy_and_resolve_references()
    for old in rename_keys(config):
        warn_renamed(f"config.{old}", f"config.{RENAMED[old]}")
    validate(config)
    validate_for_devices(config, mesh.count_devices())
    folder = RunDir.open(str(f"runs/{config.name}" if workdir is None else workdir))
    before = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    use_precision(config.precision)
    try:
        run_config(config.lock(), folder, mode)
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    return folder.read_summary() or {}


def run_config(config: ConfigDict, run: RunDir, mode: str, checkpoint: str | None = None) -> None:
    """Train and analyse what the configuration describes.

    Args:
      config: validated.
      run: the folder for the results.
      mode: a key of `ANALYSES`. The modes that do not train read the newest checkpoint and need no lock.
      checkpoint: for the mode inverse, a prior that takes the place of the run's network, as for `fmdp.load`.

    Raises:
      InputError: the data, the folder or a checkpoint cannot be used.
    """
    began, compiled = time.monotonic(), compile_seconds()
    if mode == "inverse" and not (config.inverse.protocol or config.inverse.tasks):
        raise InputError("config.inverse names no tasks: set its protocol, or tasks as configs/digits.py does")
    split = data.load_split(config.data)
    trains = mode.startswith("train")
    start = read_start(config, split.train.shape[1:], run.path) if trains else None
    with run.lock() if trains else contextlib.nullcontext():
        if checkpoint is not None:
            prior, progress = take_prior(config, split, checkpoint, run.path)
            data.pin_split(split, run / "split.json")
            get_field: Callable[[], AverageField] = partial(batching.replicate, prior)
        else:
            state, progress = _train(config, split, run, start) if trains else _restore(config, split, run)
            get_field = partial(_field_of, config, state)
        summary = start_summary(config, split, progress, previous_summary(run))
        pictures: Pictures = {}
        if ANALYSES[mode]:
            trained = Trained(config=config, split=split, field=get_field(), run=run, began=began, compiled=compiled)
            for analysis in ANALYSES[mode]:
                summary, more = analysis(trained, summary)
                pictures |= more
        run.write_summary(to_json(summary))
        if ANALYSES[mode]:
            write_report(run.path, summary, pictures)
            print(f"open {run / 'report.html'} in a browser and move the slider", flush=True)
        if mode == "inverse":
            SolverRecords(run / PARTS).clear()
    print(f"results in {run.path}", flush=True)


def _train(
    config: ConfigDict, split: data.Split, run: RunDir, start: Start | None
) -> tuple[TrainState, dict[str, Any]]:
    data.pin_split(split, run / "split.json")
    write_json(run / "config.json", as_plain_dict(config))
    return loop.fit(config, split.train, run.path, split.test, start)


def _restore(config: ConfigDict, split: data.Split, run: RunDir) -> tuple[TrainState, dict[str, Any]]:
    restored = loop.restore_state(config, split.train.shape[1:], run.path)
    data.pin_split(split, run / "split.json")
    return restored


def _field_of(config: ConfigDict, state: TrainState) -> AverageField:
    return make_field(make_network(config), batching.replicate(state.ema))


def start_summary(config: ConfigDict, split: data.Split, progress: dict[str, Any], previous: Summary | None) -> Summary:
    """The summary before any analysis. What an earlier run measured stays if it measured the same network."""
    train = {name: x for name, x in progress.items() if name != "started_from"}
    facts: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config": config.name,
        "backend": jax.default_backend(),
        "devices": jax.device_count(),
        "data": {
            "train_images": len(split.train),
            "test_images": len(split.test),
            "split_hash": split.hash,
            "left_out": len(split.left_out),
        },
        "train": train,
        "started_from": progress.get("started_from"),
    }
    if previous is None or previous.train != train:
        return Summary(**facts)
    return dataclasses.replace(previous, **facts)


def previous_summary(run: RunDir) -> Summary | None:
    """What an earlier run left in summary.json; None, with a warning, where that is not the summary of a run."""
    try:
        found = run.read_summary()
        return None if found is None else read_summary(found)
    except InputError as error:
        logging.warning("%s is ignored, as it is not the summary of a run: %s", run / "summary.json", error)
        return None
