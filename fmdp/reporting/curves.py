"""The files of a denoising evaluation: the table and the pictures."""

import csv
import math
import pathlib
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from fmdp.evaluation.denoising import Sweep
from fmdp.evaluation.results import DenoisingCurve, DenoisingResult
from fmdp.io.dataclass_json import to_json
from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8

BEHIND: dict[str, Any] = {"mfc": "none", "ms": 5.5, "lw": 0.9, "zorder": 2.5}
"""The style of curves that may coincide with the lookahead, which is drawn over them with small filled markers."""
STYLE: dict[str, dict[str, Any]] = {
    "lookahead": {"color": "#1764ab", "marker": "o", "ms": 3, "lw": 1.4, "zorder": 3},
    "chord": {"color": "#c4651c", "marker": "s", "ls": "--"} | BEHIND,
    "mean_of_samples": {"color": "#3b8540", "marker": "^", "ls": ":"} | BEHIND,
    "scaled_diffusion": {"color": "#8a4fa3", "marker": "v", "ls": ":"} | BEHIND,
    "blend": {"color": "#808080", "marker": "x", "ls": ":"} | BEHIND,
}
NAMES = {"mean_of_samples": "mean of n posterior samples", "scaled_diffusion": "scaled reverse diffusion"}
PERCEPTION = {
    "kernel_distance": "kernel distance MMD² to real images",
    "frechet_distance": "Fréchet distance to real images",
    "kid": "KID to real images",
    "fid": "FID to real images",
    "vgg16_kid": "KID on VGG16 to real images",
    "vgg16_frechet": "Fréchet distance on VGG16 to real images",
}
LOGARITHMIC = ("kernel_distance", "kid", "vgg16_kid")  # of them

SYMLOG_SPAN = 6  # an axis becomes logarithmic if its range is larger than this multiple of its linear part


def verbatim(name: str) -> str:
    """A name escaped so that matplotlib does not read it as a formula."""
    return name.replace("$", r"\$")


def set_symlog(axis, linear: float) -> None:
    """Make the y axis logarithmic above `linear` if its range is much larger, with a tick at each power of ten."""
    if np.ptp(axis.get_ylim()) > SYMLOG_SPAN * linear > 0:
        axis.set_yscale("symlog", linthresh=linear)
        axis.autoscale()  # the margins, on the new scale
        decade = 10.0 ** math.ceil(math.log10(linear))
        axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=decade))


def write_curves(path: pathlib.Path, curves: list[DenoisingCurve]) -> None:
    """Write one CSV line per noise level, knob and setting."""
    rows = [
        {"noise_level": curve.noise_level, "s": curve.s, "knob": curve.knob} | to_json(point)
        for curve in curves
        for point in curve.points
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def draw_plane(path: pathlib.Path, result: DenoisingResult) -> None:
    """Draw the distortion-perception plane: a column for each noise level, a row for each perception measure."""
    curves, floor = result.denoise, result.floor
    levels = list(dict.fromkeys(curve.noise_level for curve in curves))
    measures = [measure for measure in PERCEPTION if measure in floor]
    figure = Figure(figsize=(4.2 * len(levels), 3.4 * len(measures)), layout="constrained")
    axes = figure.subplots(len(measures), len(levels), squeeze=False)
    for row, measure in zip(axes, measures, strict=True):
        interval = floor[measure]
        for axis, level in zip(row, levels, strict=True):
            axis.margins(0.12)
            _draw_curves(axis, [c for c in curves if c.noise_level == level], measure)
            axis.axhspan(interval.low, interval.high, color="0.5", alpha=0.25, lw=0)
            axis.axhline(interval.mean, color="0.5", lw=0.8, label="real against real")
            if measure in LOGARITHMIC:
                set_symlog(axis, max(abs(interval.low), abs(interval.high)))
            axis.set_title(f"noise level {level:g}")
            axis.set_xlabel("mean squared error per pixel")
        row[0].set_ylabel(PERCEPTION[measure])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(
        "Lower is better on both axes. Each point is one setting of a knob on the same network; the lookahead goes from"
        " t = s (least error) to t = 1 (looks real).\n"
        f"{result.images} held-out images, {result.draws} draws of the noise (bars: their standard"
        " deviation; of the dotted knobs one draw), one trained network; band: 95 % of real sets against real ones",
        fontsize=9,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_curves(axis, curves: list[DenoisingCurve], measure: str) -> None:
    for curve in curves:
        points = [point.measures for point in curve.points if measure in point.measures]
        if not points:
            continue
        x, y, dx, dy = (
            [point[key] for point in points] for key in ("mse", measure, "mse_draw_std", f"{measure}_draw_std")
        )
        axis.errorbar(x, y, dy, dx, elinewidth=0.6, label=_label(curve), **STYLE[curve.knob])
        if curve.knob == "lookahead":
            at = {"textcoords": "offset points", "fontsize": 8, "ha": "right", "va": "top"}
            axis.annotate("t = s", (x[0], y[0]), (-7, 2), **at)
            axis.annotate("t = 1", (x[-1], y[-1]), (-7, -5), **at)


def _label(curve: DenoisingCurve) -> str:
    """The name of the knob, and its number of evaluations."""
    costs = [point.evaluations for point in curve.points]
    cost = f"{costs[0]}" if min(costs) == max(costs) else f"{min(costs)} to {max(costs)}"
    return f"{NAMES.get(curve.knob, curve.knob)} ({cost} evaluation{'s' * (max(costs) > 1)})"


def draw_denoising(path: pathlib.Path, clean: np.ndarray, sweeps: list[Sweep], images: int, columns: int = 7) -> None:
    """Draw restored images: a block of rows for each noise level, columns clean, noisy, then growing lookahead."""
    kept = sweeps[0].kept
    images = min(images, len(kept))
    shown = np.linspace(0, len(kept) - 1, images).astype(int)
    rows = len(sweeps) * images
    figure = Figure(figsize=(0.85 * (columns + 2), 0.85 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns + 2, squeeze=False)
    for block, swept in enumerate(sweeps):
        curve = swept.curves["lookahead"]
        settings = np.linspace(0, len(curve.settings) - 1, columns).astype(int)
        titles = ["clean", "noisy", *(f"t = {swept.s + curve.settings[k] * (1 - swept.s):.2f}" for k in settings)]
        for row, place in enumerate(shown):
            line = axes[block * images + row]
            index = kept[place]
            pictures = [clean[index], swept.noisy[0, index], *curve.restored[settings, 0, place]]
            for axis, picture, title in zip(line, pictures, titles, strict=True):
                axis.imshow(to_uint8(picture), cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(title, fontsize=8)
            if row == 0:
                line[0].set_ylabel(f"noise {1 - swept.s:.1f}", fontsize=8)
    figure.suptitle("From the minimum-error estimate (t = s) to perfect perception (t = 1)", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
