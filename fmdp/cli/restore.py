"""The command line of --mode=restore: your own images in, restored ones out."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from tqdm import tqdm

from fmdp import load
from fmdp.cli import provenance
from fmdp.cli.budget import Budget, read_budget
from fmdp.cli.deprecated import warn_degraded
from fmdp.cli.operator_args import parse_operator_args
from fmdp.errors import InputError, ParameterError, printable
from fmdp.io.files import expand_path
from fmdp.io.levels import Range
from fmdp.parallel.precision import PRECISIONS
from fmdp.pretrained import prior as prior_files
from fmdp.reporting.restoration_page import draw_overview
from fmdp.restoration import image_files
from fmdp.restoration.output_formats import OUTPUT_FORMATS
from fmdp.restoration.request import GRAY_LEVELS, MAX_SIGMA, Request
from fmdp.restoration.restore import Restored
from fmdp.types import SizedField

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_VALUE = 200  # characters of a flag's value that a message repeats

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "restore, benchmark, inverse: a prior by name, a run's folder, a file."
)
INPUT = flags.DEFINE_string("input", None, "restore: an image, or a folder of images.")
OUTPUT = flags.DEFINE_string("output", None, "restore: the folder for results; by default `restored` beside the input.")
OPERATOR = flags.DEFINE_string("operator", "denoising", "restore: the operator that degraded the images, by name.")
OPERATOR_ARG = flags.DEFINE_multi_string(
    "operator_arg", [], "restore: a parameter of the operator, as NAME=VALUE; mask, kernel and psf name image files."
)
DEGRADE = flags.DEFINE_bool("degrade", None, "restore: the images are clean; degrade them first, and report the error.")
ALREADY = flags.DEFINE_bool("already_degraded", None, "restore: the default since version 0.2; leave it out.")
SIGMA = flags.DEFINE_float("sigma", None, "restore: standard deviation of the noise, where black to white is 2.")
SIGMA_255 = flags.DEFINE_float("sigma_255", None, "restore: instead of --sigma, where black to white is 255.")
LOOKAHEAD = flags.DEFINE_float(
    "lookahead", None, "restore: from 0 (the default: minimum error) to 1 (perfect perception)."
)
BUDGET = flags.DEFINE_float(
    "budget_db", None, "restore: instead of --lookahead, the decibels to give up for perception."
)
ALL = flags.DEFINE_bool("sweep", False, f"restore: all lookaheads of {SWEEP}, and a page with a slider.")
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
WHITE_LEVEL = flags.DEFINE_float(
    "white_level", None, "restore: the number of white in files of more than 8 bits; estimated unless given."
)
BLACK_LEVEL = flags.DEFINE_float("black_level", None, "restore: the number of black there; 0 unless given.")
OUTPUT_FORMAT = flags.DEFINE_enum(
    "output_format", "png", list(OUTPUT_FORMATS), "restore: 8 bits, 16 bits, or floats from -1 to 1."
)
PRECISION = flags.DEFINE_enum(
    "precision", "default", PRECISIONS, "restore: of products and convolutions. Other modes take config.precision."
)

FLAG_OF: dict[str, flags.FlagHolder] = {
    "operator": OPERATOR,
    "parameters": OPERATOR_ARG,
    "degraded": DEGRADE,
    "sigma": SIGMA,
    "lookaheads": LOOKAHEAD,
    "num_samples": NUM_SAMPLES,
    "steps": STEPS,
    "gain": GAIN,
    "seed": SEED,
    "tile": TILE,
    "memory_gb": MEMORY,
    "range": WHITE_LEVEL,
    "source": INPUT,
    "output": OUTPUT,
}
"""The flag that sets each parameter of `Request` and of `image_files.restore_files`."""


def describe_flag(parameter: str) -> str:
    """The flag of a parameter of the library as it stands on the command line, such as --sigma=0.1."""
    flag = FLAG_OF[parameter]
    if flag is SIGMA and SIGMA_255.value is not None:
        flag = SIGMA_255
    if flag is DEGRADE:
        return f"{'with' if degrades() else 'without'} --degrade"
    if flag is OUTPUT and flag.value is None:
        return f"--output={image_files.default_output(pathlib.Path(str(INPUT.value)))}"
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
    checkpoint, source = (_required_path(flag) for flag in (CHECKPOINT, INPUT))
    output = image_files.default_output(source) if OUTPUT.value is None else expand_path(OUTPUT.value)
    chosen = [flag.name for flag in (LOOKAHEAD, BUDGET) if flag.value is not None] + ["sweep"] * ALL.value
    if len(chosen) > 1:
        raise InputError(f"--{chosen[0]} and --{chosen[1]} exclude each other: keep one")
    for flag in (STEPS, GAIN):
        if OPERATOR.value == "denoising" and flag.present:
            raise InputError(f"--{flag.name} is of plug-and-play, and denoising is one evaluation: leave it out")
    count = len(image_files.find_images(source, output))  # before anything slow
    request = request_from_flags()
    if DEGRADE.value is None:
        warn_degraded(ALREADY.value, OPERATOR.value != "denoising" or request.sigma is not None)
    prior, budget = load(checkpoint), None
    if BUDGET.value is not None:
        in_levels, folder = SIGMA_255.value is not None, prior_files.find_prior(checkpoint)
        budget = read_budget(BUDGET.value, request, folder, prior.image_shape[-1], in_levels)
    made_by = {"checkpoint": str(checkpoint), "given": OPERATOR_ARG.value} | provenance.provenance_of_run()
    done, faults = restore_folder(prior, request, source, output, made_by, count, budget)
    where = f"results in {output}" if done else "nothing was written"
    print(printable(f"{done} restored, {len(faults)} not; {where}"), flush=True)
    if not done:
        sys.exit(2)


def restore_folder(
    prior: SizedField,
    request: Request,
    source: pathlib.Path,
    output: pathlib.Path,
    made_by: dict[str, Any],
    count: int | None = None,
    budget: Budget | None = None,
) -> tuple[int, list[str]]:
    """Restore an image or a folder of them, as `image_files.restore_files`, and print what becomes of each.

    Args:
      count: of the images, for the progress bar.
      budget: sets the lookahead for the noise in each image.

    Returns:
      How many were restored, and one line for each that could not be.
    """
    done, faults = 0, []
    form = OUTPUT_FORMATS[OUTPUT_FORMAT.value]
    adapt = budget.spend if budget else None
    outcomes = image_files.restore_files(prior, request, source, output, made_by, draw_overview, form, adapt)
    with tqdm(outcomes, total=count, unit="image") as bar:
        for outcome in bar:
            if outcome.error is None:
                done += 1
                lines = describe_result(outcome.restored, outcome.request)
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
    if BUDGET.value is not None:
        lines.append(f"--{BUDGET.name}={BUDGET.value:g}: lookahead {request.lookaheads[0]:.3g}")
    if "psnr" in facts:
        psnr = ", ".join(f"{value:.2f}" for value in facts["psnr"])
        lines.append(f"PSNR {psnr} dB at lookahead {', '.join(f'{r:.3g}' for r in request.lookaheads)}")
    if facts["sigma_estimated"] or not request.degraded:
        how = "estimated" if facts["sigma_estimated"] else "added"
        lines.append(f"noise {how}: --sigma={facts['sigma']:.4f}, which is --sigma_255={facts['sigma_255']:.2f}")
    if "hidden" in facts:
        lines.append(f"{facts['hidden']:.1%} of the pixels are hidden")
    if facts["tiles"] > 1:
        height, width, _ = facts["tile"]
        how = f"with margins of {facts['margin']}" if "margin" in facts else "the size trained on"
        lines.append(f"restored in {facts['tiles']} overlapping tiles of {height}x{width}, {how}")
    return lines


def degrades() -> bool:
    """Whether the images are clean and degraded first; version 0.1.0 said so by --noalready_degraded."""
    return bool(DEGRADE.value) or ALREADY.value is False


def sigma_from_flags() -> float | None:
    """The noise level on the [-1, 1] scale.

    Raises:
      InputError: both flags are given, or one in the unit of the other.
    """
    given, levels = SIGMA.value, SIGMA_255.value
    if given is not None and levels is not None:
        raise InputError("--sigma and --sigma_255 exclude each other: keep one")
    if given is not None and MAX_SIGMA < given <= 255:
        remedy = f"for {given:g} of 255 give --sigma_255={given:g} or --sigma={given / GRAY_LEVELS:.3g}"
        raise InputError(f"--sigma={given:g}: the scale from black to white is 2; {remedy}")
    if levels is not None and levels > (most := MAX_SIGMA * GRAY_LEVELS):
        raise InputError(f"--sigma_255={levels:g}: must be at most {most:g}, twice the range from black to white")
    return given if levels is None else levels / GRAY_LEVELS


def request_from_flags() -> Request:
    """What the flags ask for.

    Raises:
      InputError: a flag cannot be used.
    """
    if DEGRADE.value and ALREADY.value:
        raise InputError("--degrade and --already_degraded exclude each other: keep one")
    with naming_flags():
        return Request(
            operator=OPERATOR.value,
            parameters=parse_operator_args(OPERATOR_ARG.value),
            degraded=not degrades(),
            sigma=sigma_from_flags(),
            lookaheads=SWEEP if ALL.value else (LOOKAHEAD.value or 0.0,),
            num_samples=NUM_SAMPLES.value,
            steps=STEPS.value,
            gain=GAIN.value,
            seed=SEED.value,
            tile=TILE.value,
            memory_gb=MEMORY.value,
            range=_stated_range(),
        )


def _stated_range() -> Range | None:
    if WHITE_LEVEL.value is None:
        if BLACK_LEVEL.value is not None:
            raise InputError(f"--black_level={BLACK_LEVEL.value:g} alone: set --white_level, too")
        return None
    return (BLACK_LEVEL.value or 0.0, WHITE_LEVEL.value)


def _required_path(flag: flags.FlagHolder) -> pathlib.Path:
    if flag.value is None:
        raise InputError(f"--{flag.name} is missing: --mode=restore needs --checkpoint and --input")
    return expand_path(flag.value)
