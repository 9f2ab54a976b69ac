"""The command line of --mode=restore: your own pictures in, restored ones out."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np
from absl import flags

from fmdp import load
from fmdp.cli import provenance
from fmdp.data.decoding import UnusableError
from fmdp.errors import InputError, printable
from fmdp.evaluation.calibration import Calibration
from fmdp.flow.interpolant import time_of_sigma
from fmdp.io.files import expand_path, read_json
from fmdp.pretrained import prior as prior_files
from fmdp.restoration import image_files
from fmdp.restoration.request import Request

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
ARRAYS = ("mask", "kernel")  # parameters that are pictures

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "restore: a shipped prior by name, a run's folder, or a file.")
INPUT = flags.DEFINE_string("input", None, "restore: a picture, or a folder of them.")
OUTPUT = flags.DEFINE_string("output", None, "restore: the folder for what is restored.")
OPERATOR = flags.DEFINE_string("operator", "denoising", "restore: what degrades the pictures, by name.")
OPERATOR_ARG = flags.DEFINE_multi_string(
    "operator_arg", [], "restore: a parameter of the operator, as NAME=VALUE; mask and kernel name pictures."
)
DEGRADED = flags.DEFINE_bool("already_degraded", False, "restore: the pictures are degraded; do not do it again.")
SIGMA = flags.DEFINE_float("sigma", None, "restore: of the noise, 1 being half of the range of pixels.")
LOOKAHEAD = flags.DEFINE_float(
    "lookahead", None, "restore: from 0 (the default: least error) to 1 (the look of the data)."
)
BUDGET = flags.DEFINE_float("budget_db", None, "restore: instead, the decibels to give up for perception.")
ALL = flags.DEFINE_bool("sweep", False, f"restore: instead, at lookaheads {SWEEP}, and a contact sheet.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 1, "restore: of the solver's noise; their mean and spread are written."
)
STEPS = flags.DEFINE_integer("steps", 100, "restore: of plug-and-play.")
GAIN = flags.DEFINE_float("gain", 1.0, "restore: of plug-and-play's data step.")
SEED = flags.DEFINE_integer("seed", 0, "restore: of masks, noise and solver.")


def run_restore() -> None:
    """Restore what the flags name; the program ends with code 2 where nothing could be restored.

    Raises:
      InputError: flags that are missing or exclude each other, or that cannot be used.
    """
    checkpoint, source, output = (_needed(flag) for flag in (CHECKPOINT, INPUT, OUTPUT))
    chosen = [flag.name for flag in (LOOKAHEAD, BUDGET) if flag.value is not None] + ["sweep"] * ALL.value
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} exclude each other: keep one")
    for flag in (STEPS, GAIN):
        if OPERATOR.value == "denoising" and flag.present:
            raise InputError(f"--{flag.name} is of plug-and-play, and denoising is one evaluation: leave it out")
    image_files.find_images(source, output)  # before anything slow
    wanted = request_from_flags()
    wanted.check()
    if BUDGET.value is not None:
        setting = lookahead_for_budget(BUDGET.value, wanted, prior_files.find_prior(checkpoint))
        wanted = dataclasses.replace(wanted, lookaheads=(setting,))
    made_by = {"checkpoint": str(checkpoint), "given": OPERATOR_ARG.value} | provenance.provenance_of_run()
    done, faults = image_files.restore_files(load(checkpoint), wanted, source, output, made_by)
    print(printable(f"{done} restored, {len(faults)} not; results in {output}"), flush=True)
    if not done:
        sys.exit(2)


def request_from_flags() -> Request:
    """What the flags ask for.

    Raises:
      InputError: a parameter cannot be read.
    """
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
    )


def _needed(flag: flags.FlagHolder) -> pathlib.Path:
    if flag.value is None:
        raise InputError(f"--{flag.name} is missing: --mode=restore needs --checkpoint, --input and --output")
    return expand_path(flag.value)


def parse_operator_args(texts: list[str]) -> dict[str, Any]:
    """All parameters of an operator.

    Raises:
      InputError: one of them cannot be read, or is there twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, value = parse_operator_arg(text)
        if name in found:
            raise InputError(f"--operator_arg={text}: {name} is there twice: keep one")
        found[name] = value
    return found


def parse_operator_arg(text: str) -> tuple[str, Any]:
    """A parameter of an operator from NAME=VALUE.

    Raises:
      InputError: it is of another form, or names a picture that cannot be read.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--operator_arg={text}: write NAME=VALUE, such as size=9")
    if name in ARRAYS:
        try:
            levels = (image_files.read_image(expand_path(value))[..., 0] + 1) / 2
        except (OSError, UnusableError) as error:
            raise InputError(f"--operator_arg={text}: {error}") from error
        return name, np.round(levels) if name == "mask" else levels / max(levels.sum(), 1e-6)
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def lookahead_for_budget(decibels: float, request: Request, checkpoint: pathlib.Path) -> float:
    """The lookahead at which denoising gives up that many decibels, by the calibration of a run.

    Raises:
      InputError: there is no calibration for this, or the budget is beyond what the knob can spend.
    """
    if request.operator != "denoising" or request.sigma is None:
        only = "calibrated for --operator=denoising with --sigma alone"
        raise InputError(f"--budget_db={decibels:g}: {only}: name both, or --lookahead instead")
    path = checkpoint / "calibration.json"
    if not path.is_file():
        raise InputError(f"--budget_db={decibels:g}: {checkpoint} holds no calibration.json, as a measured run does")
    calibration = Calibration.from_dict(read_json(path))
    levels = [level.noise_level for level in calibration.levels]
    least, most = (level / (1 - level) for level in (levels[0], levels[-1]))
    if not least * (1 - 1e-6) <= request.sigma <= most * (1 + 1e-6):
        raise InputError(f"--sigma={request.sigma:g}: this checkpoint is calibrated from {least:.3g} to {most:.3g}")
    return calibration.knob_for_loss(1 - float(time_of_sigma(request.sigma)), decibels)
