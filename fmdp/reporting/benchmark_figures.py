"""The figures of a benchmark: the plane of PSNR and learned distances, and strips of crops."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fmdp.benchmark.measure import CHORD, LOOKAHEAD, NOISY, Made, Row
from fmdp.benchmark.pictures import detail_corner
from fmdp.benchmark.summary import Result, SetResult
from fmdp.evaluation.results import Number
from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8
from fmdp.reporting.benchmark_tables import TITLES, count_pictures, method_title, setting_title
from fmdp.reporting.curves import STYLE, verbatim

LPIPS = "lpips_alex"
DISTANCES = (LPIPS, "dists")
CROP = 128  # pixels a side of what is kept of a picture
SHOWN = 64  # pixels a side of what a strip shows of it, in the middle of the crop
ENLARGED = 3  # pixels of a strip for one of the picture
NEAR = 1.0  # how far the plane extends beyond the flow map's curve and the chord, as a share of their extent
MARKERS: dict[str, dict[str, Any]] = {
    "nl_means": {"color": "#3b8540", "marker": "^"},
    "wavelets": {"color": "#8a4fa3", "marker": "v"},
    "bm3d": {"color": "#606060", "marker": "D"},
}
"""The style of the points of the rivals."""


def draw_planes(path: pathlib.Path, results: Sequence[SetResult]) -> bool:
    """Draw LPIPS and DISTS against PSNR: a row for each set and distance, a column for each noise level.

    Returns:
      Whether there was anything to draw: a learned distance of some pictures.
    """
    rows = [(of, name) for of in results for name in DISTANCES if any(_has(result, name) for result in of.results)]
    if not rows:
        return False
    sigmas = list(dict.fromkeys(result.sigma for of in results for result in of.results))
    figure = Figure(figsize=(4.0 * len(sigmas), 3.1 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots(len(rows), len(sigmas), squeeze=False)
    handles: dict[str, Any] = {}
    for line, (of, name) in zip(axes, rows, strict=True):
        for axis, sigma in zip(line, sigmas, strict=True):
            handles |= _draw_plane(axis, [x for x in of.results if x.sigma == sigma and _has(x, name)], name)
            axis.set_title(f"{verbatim(of.name)}, sigma {sigma:g} ({count_pictures(of.in_full)})", fontsize=9)
            axis.set_xlabel("PSNR in dB (higher is better)", fontsize=8)
        line[0].set_ylabel(f"{TITLES[name]} (lower is better)", fontsize=8)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        "Each point is the mean of one denoiser, or of one setting of the knob: better is to the right and down.\n"
        "Numbers at the flow map's points are its lookahead r, from t = s (0, least error) to t = 1. Bars are\n"
        "standard errors of the difference from t = s on the same pictures. Distances are from the clean picture.",
        fontsize=10,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def _has(result: Result, name: str) -> bool:
    return result.full is not None and name in result.full.measures


def _draw_plane(axis, results: Sequence[Result], name: str) -> dict[str, Any]:
    """Draw the points near the curve, and name those that are far away in a corner. Returns what the legend shows."""
    handles, far = {}, []
    if not results:
        return {}
    curve = np.array([_at(x, name) for x in results if x.method in (LOOKAHEAD, CHORD)])
    low, high = curve.min(0), curve.max(0)
    low, high = low - NEAR * (high - low), high + NEAR * (high - low)
    for method in dict.fromkeys(result.method for result in results if result.method != NOISY):
        of = [result for result in results if result.method == method]
        (x, y), title = np.array([_at(result, name) for result in of]).T, method_title(method)
        if method in (LOOKAHEAD, CHORD):
            style, title = STYLE[method], f"{title} ({'one evaluation' if method == LOOKAHEAD else 'two evaluations'})"
        elif np.any((low > (x[0], y[0])) | (high < (x[0], y[0]))) and np.ptp(curve, 0).all():
            far.append(f"{title}: {x[0]:.2f} dB, {y[0]:.3f}")
            continue
        else:
            style = {"ls": "", "ms": 7, "mfc": "none"} | MARKERS.get(method, {"color": "#606060", "marker": "*"})
        errors = [[_error(result, measure) for result in of] for measure in ("psnr", name)]
        axis.errorbar(x, y, errors[1], errors[0], fmt="none", ecolor=style["color"], elinewidth=0.7, alpha=0.6)
        (handles[title],) = axis.plot(x, y, label=title, **style)
        if method == LOOKAHEAD:
            for result, at in zip(of, zip(x, y, strict=True), strict=True):
                axis.annotate(f"{result.lookahead:g}", at, (4, 5), textcoords="offset points", fontsize=7)
    if far:
        axis.text(0.02, 0.98, "\n".join(["outside:", *far]), transform=axis.transAxes, fontsize=6.5, va="top")
    axis.margins(0.2)
    axis.tick_params(labelsize=8)
    return handles


def _at(result: Result, name: str) -> tuple[Number, Number]:
    assert result.full is not None
    return result.full.measures["psnr"], result.full.measures[name]


def _error(result: Result, name: str) -> Number:
    return result.change.measures.get(f"{name}_sem", 0.0) if result.change else 0.0


def crop_estimates(clean: np.ndarray, estimates: Mapping[float, Mapping[Made, np.ndarray]]) -> dict[str, np.ndarray]:
    """What a strip shows of a picture [H, W, C]: its square with most detail, uint8, clean and by noise level.

    Returns:
      By name: "clean" [h, w] or [h, w, 3], and for each noise level "SIGMA/METHOD" or "SIGMA/METHOD/R".
    """
    top, left = detail_corner(clean, CROP)
    cut = (slice(top, top + CROP), slice(left, left + CROP))
    found = {"clean": to_uint8(clean[cut])}
    for sigma, by_made in estimates.items():
        for made, image in by_made.items():
            if made.method != CHORD:
                found[_key(sigma, made.method, made.lookahead)] = to_uint8(image[cut])
    return found


def _key(sigma: Number, method: str, lookahead: Number | None) -> str:
    return f"{sigma:g}/{method}" + ("" if lookahead is None else f"/{lookahead:g}")


def draw_strips(
    path: pathlib.Path,
    dataset: str,
    sigma: float,
    pictures: Mapping[str, tuple[Mapping[str, np.ndarray], Sequence[Row]]],
) -> None:
    """Draw crops of pictures at one noise level: by lookahead, and below clean, noisy and by the rivals.

    Args:
      path: of the PNG.
      dataset: the name of the set.
      sigma: of the noise, of 255.
      pictures: by name, their crops from `crop_estimates`, and their rows.
    """
    lines = [line for name, of in pictures.items() for line in _lines(name, sigma, *of)]
    side, gap, title, head = SHOWN * ENLARGED, 8, 40, 60  # in pixels
    width = max(4, *map(len, lines)) * (side + gap) + gap
    height = len(lines) * (side + title) + head
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    for number, line in enumerate(lines):
        for place, (label, image) in enumerate(line):
            left, top = gap + place * (side + gap), head + number * (side + title) + title
            rows, columns = (ENLARGED * length for length in image.shape[:2])
            axis = figure.add_axes((left / width, 1 - (top + rows) / height, columns / width, rows / height))
            axis.imshow(image, cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(verbatim(label), fontsize=7.5)
    which = "the first pictures measured in full, where they have most detail"
    about = (
        f"{verbatim(dataset)}, sigma {sigma:g}: {which}, {ENLARGED} times enlarged.\nNumbers are of the whole picture."
    )
    figure.suptitle(about, fontsize=9, y=1 - 6 / height, va="top")
    with atomic_write(path) as temporary:
        figure.savefig(temporary)


def _lines(
    name: str, sigma: float, crops: Mapping[str, np.ndarray], rows: Sequence[Row]
) -> tuple[list[tuple[str, np.ndarray]], list[tuple[str, np.ndarray]]]:
    """The titles and images of a picture: the flow map's, and the others."""
    flow_map, others = [], [(f"{name[-28:]}\nclean", _middle(crops["clean"]))]
    for row in rows:
        key = _key(sigma, row.method, row.lookahead)
        if row.sigma != sigma or key not in crops:
            continue
        numbers = f"{row.measures['psnr']:.2f} dB"
        numbers += f", {TITLES[LPIPS]} {row.measures[LPIPS]:.3f}" if LPIPS in row.measures else ""
        if row.method == LOOKAHEAD:
            flow_map.append((f"{setting_title(row.method, row.lookahead)}\n{numbers}", _middle(crops[key])))
        else:
            others.append((f"{method_title(row.method)}\n{numbers}", _middle(crops[key])))
    return flow_map, others


def _middle(image: np.ndarray) -> np.ndarray:
    """The square in the middle of an image [h, w] or [h, w, 3] that a strip shows."""
    top, left = (max(length - SHOWN, 0) // 2 for length in image.shape[:2])
    return image[top : top + SHOWN, left : left + SHOWN]
