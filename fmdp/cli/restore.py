"""The command line of --mode=restore: your own images in, restored ones out."""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from fmdp import load
from fmdp.cli import provenance
from fmdp.data.decoding import UnusableError
from fmdp.errors import InputError, ParameterError, printable, translating
from fmdp.evaluation.calibration import Calibration
from fmdp.flow.interpolant import time_of_sigma
from fmdp.io.files import expand_path, read_json
from fmdp.parallel.precision import PRECISIONS
from fmdp.pretrained import prior as prior_files
from fmdp.reporting.contact_sheet import draw_sheet
from fmdp.restoration import image_files
from fmdp.restoration.request import Request
from fmdp.restoration.restore import Restored
from fmdp.types import SizedField

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
ARRAYS = ("mask", "kernel", "psf")  # parameters of operators that are given as image files
MAX_VALUE = 200  # characters of a flag's value that a message repeats

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "restore: a shipped prior by name, a run's folder, or a file.")
INPUT = flags.DEFINE_string("input", None, "restore: an image, or a folder of images.")
OUTPUT = flags.DEFINE_string("output", None, "restore: the folder for the restored images.")
OPERATOR = flags.DEFINE_string("operator", "denoising", "restore: the operator that degrades the images, by name.")
OPERATOR_ARG = flags.DEFINE_multi_string(
    "operator_arg", [], "restore: a parameter of the operator, as NAME=VALUE; mask and kernel name image files."
)
DEGRADED = flags.DEFINE_bool("already_degraded", False, "restore: the images are degraded; do not degrade them again.")
SIGMA = flags.DEFINE_float("sigma", None, "restore: standard deviation of the noise; 1 is half the range of pixels.")
LOOKAHEAD = flags.DEFINE_float(
    "lookahead", None, "restore: from 0 (the default: minimum error) to 1 (perfect perception)."
)
BUDGET = flags.DEFINE_float(
    "budget_db", None, "restore: instead of --lookahead, the decibels to give up for perception."
)
ALL = flags.DEFINE_bool("sweep", False, f"restore: all lookaheads of {SWEEP}, and a contact sheet.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 1, "restore: samples by plug-and-play; their mean and spread are written."
)
STEPS = flags.DEFINE_integer("steps", 100, "restore: steps of plug-and-play.")
GAIN = flags.DEFINE_float("gain", 1.0, "restore: gain of plug-and-play's data step.")
SEED = flags.DEFINE_integer("seed", 0, "restore: seed of masks, noise and solver.")
TILE = flags.DEFINE_integer("tile", None, "restore: pixels a side of the tiles, for priors without attention.")
MEMORY = flags.DEFINE_float(
    "memory_gb", None, "restore: for tiles at once, on each GPU or on the CPU; by default half of what is free."
)
PRECISION = flags.DEFINE_enum(
    "precision", "default", PRECISIONS, "restore: of products and convolutions. Other modes take config.precision."
)

FLAG_OF: dict[str, flags.FlagHolder] = {
    "operator": OPERATOR,
    "parameters": OPERATOR_ARG,
    "degraded": DEGRADED,
    "sigma": SIGMA,
    "lookaheads": LOOKAHEAD,
    "num_samples": NUM_SAMPLES,
    "steps": STEPS,
    "gain": GAIN,
    "seed": SEED,
    "tile": TILE,
    "memory_gb": MEMORY,
    "source": INPUT,
    "output": OUTPUT,
}
"""The flag that sets each parameter of `Request` and of `image_files.restore_files`."""


def describe_flag(parameter: str) -> str:
    """The flag of a parameter of the library as it stands on the command line, such as --sigma=0.1."""
    flag = FLAG_OF[parameter]
    if flag.value is None or flag.value == [] or isinstance(flag.value, bool):
        return f"--{flag.name}"
    values = flag.value if isinstance(flag.value, list) else [flag.value]
    return " ".join(f"--{flag.name}={str(value)[:MAX_VALUE]}" for value in values)


def describe_error(error: Exception) -> str:
    """What is wrong, in the words of the command line."""
    if not isinstance(error, ParameterError):
        return str(error)
    return f"{describe_flag(error.parameter)}: {error.remedy}"


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Errors that name a parameter of the library name its flag instead."""
    try:
        yield
    except ParameterError as error:
        raise InputError(describe_error(error)) from error


@naming_flags()
def run_restore() -> None:
    """Restore what the flags name; the program ends with code 2 where nothing could be restored.

    Raises:
      InputError: flags that are missing or exclude each other, or that cannot be used.
    """
    checkpoint, source, output = (_required_path(flag) for flag in (CHECKPOINT, INPUT, OUTPUT))
    chosen = [flag.name for flag in (LOOKAHEAD, BUDGET) if flag.value is not None] + ["sweep"] * ALL.value
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} exclude each other: keep one")
    for flag in (STEPS, GAIN):
        if OPERATOR.value == "denoising" and flag.present:
            raise InputError(f"--{flag.name} is of plug-and-play, and denoising is one evaluation: leave it out")
    count = len(image_files.find_images(source, output))  # before anything slow
    request = request_from_flags()
    if BUDGET.value is not None:
        lookahead = lookahead_for_budget(BUDGET.value, request, prior_files.find_prior(checkpoint))
        request = dataclasses.replace(request, lookaheads=(lookahead,))
    made_by = {"checkpoint": str(checkpoint), "given": OPERATOR_ARG.value} | provenance.provenance_of_run()
    done, faults = restore_folder(load(checkpoint), request, source, output, made_by, count)
    print(printable(f"{done} restored, {len(faults)} not; results in {output}"), flush=True)
    if not done:
        sys.exit(2)


def restore_folder(
    prior: SizedField,
    request: Request,
    source: pathlib.Path,
    output: pathlib.Path,
    made_by: dict[str, Any],
    count: int | None = None,
) -> tuple[int, list[str]]:
    """Restore an image or a folder of them, as `image_files.restore_files`, and print what becomes of each.

    Args:
      count: of the images, for the progress bar.

    Returns:
      How many were restored, and one line for each that could not be.
    """
    done, faults = 0, []
    outcomes = image_files.restore_files(prior, request, source, output, made_by, draw_sheet)
    with tqdm(outcomes, total=count, unit="image") as bar:
        for outcome in bar:
            if outcome.error is None:
                done += 1
                lines = describe_result(outcome.restored, request)
            else:
                lines = [describe_error(outcome.error)]
            lines = [printable(f"{outcome.path}: {line}") for line in lines]
            faults += lines if outcome.error else []
            for line in lines:
                bar.write(line)
    return done, faults


def describe_result(restored: Restored, request: Request) -> list[str]:
    """What to say about a restored image, in lines."""
    facts = restored.facts
    lines = [
        f"{describe_flag(note.parameter)}: {note.text}" if note.parameter else note.text for note in restored.notes
    ]
    if "psnr" in facts:
        psnr = ", ".join(f"{value:.2f}" for value in facts["psnr"])
        lines.append(f"PSNR {psnr} dB at lookahead {', '.join(f'{r:.3g}' for r in request.lookaheads)}")
    if facts["sigma_estimated"]:
        lines.append(f"noise estimated: --sigma={facts['sigma']:.4f}")
    if facts["tiles"] > 1:
        height, width, _ = facts["tile"]
        how = f"with margins of {facts['margin']}" if "margin" in facts else "the size trained on"
        lines.append(f"restored in {facts['tiles']} overlapping tiles of {height}x{width}, {how}")
    return lines


def request_from_flags() -> Request:
    """What the flags ask for.

    Raises:
      InputError: a flag cannot be used.
    """
    with naming_flags():
        return Request(
            operator=OPERATOR.value,
            parameters=parse_operator_args(OPERATOR_ARG.value),
            degraded=DEGRADED.value,
            sigma=SIGMA.value,
            lookaheads=SWEEP if ALL.value else (LOOKAHEAD.value or 0.0,),
            num_samples=NUM_SAMPLES.value,
            steps=STEPS.value,
            gain=GAIN.value,
            seed=SEED.value,
            tile=TILE.value,
            memory_gb=MEMORY.value,
        )


def _required_path(flag: flags.FlagHolder) -> pathlib.Path:
    if flag.value is None:
        raise InputError(f"--{flag.name} is missing: --mode=restore needs --checkpoint, --input and --output")
    return expand_path(flag.value)


def parse_operator_args(texts: list[str]) -> dict[str, Any]:
    """All parameters of an operator, from NAME=VALUE each.

    Raises:
      InputError: one of them cannot be read, or is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, value = parse_operator_arg(text)
        if name in found:
            raise InputError(f"--operator_arg={text}: {name} is given twice: keep one")
        found[name] = value
    return found


def parse_operator_arg(text: str) -> tuple[str, Any]:
    """A parameter of an operator from NAME=VALUE.

    Raises:
      InputError: it has another form, or names an image that cannot be read.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--operator_arg={text}: write NAME=VALUE, such as size=9")
    if name in ARRAYS:
        with translating(lambda why: f"--operator_arg={text}: {why}", OSError, UnusableError, InputError):
            levels = (image_files.read_image(expand_path(value))[..., 0] + 1) / 2
        return name, np.round(levels) if name == "mask" else levels / max(levels.sum(), 1e-6)
    for read in (json.loads, float):  # .5 is a number, though not in JSON
        with contextlib.suppress(ValueError, RecursionError):
            return name, read(value)
    return name, value


def lookahead_for_budget(decibels: float, request: Request, checkpoint: pathlib.Path) -> float:
    """The lookahead at which denoising gives up that many decibels, by the calibration of a run.

    Raises:
      InputError: there is no calibration for this, or more decibels than any lookahead gives up.
    """
    if request.operator != "denoising" or request.sigma is None:
        raise InputError(f"--budget_db={decibels:g}: only --operator=denoising with --sigma is calibrated: set both")
    path = checkpoint / "calibration.json"
    if not path.is_file():
        raise InputError(f"--budget_db={decibels:g}: {checkpoint} holds no calibration.json, as a measured run does")
    calibration = Calibration.from_dict(read_json(path))
    levels = [level.noise_level for level in calibration.levels]
    least, most = (level / (1 - level) for level in (levels[0], levels[-1]))
    if not least * (1 - 1e-6) <= request.sigma <= most * (1 + 1e-6):
        raise InputError(f"--sigma={request.sigma:g}: this checkpoint is calibrated from {least:.3g} to {most:.3g}")
    return calibration.knob_for_loss(1 - float(time_of_sigma(request.sigma)), decibels)
