"""The figures of a benchmark: the plane of PSNR and learned distances, and strips of crops."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fmdp.benchmark.measure import CHORD, LOOKAHEAD, NOISY, Made
from fmdp.benchmark.pictures import detail_corner
from fmdp.benchmark.summary import Result, SetResult
from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8
from fmdp.reporting.benchmark_tables import TITLES, method_title
from fmdp.reporting.curves import STYLE, verbatim

DISTANCES = ("lpips_alex", "dists")
CROP = 128  # pixels a side of what the strips show
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
    figure = Figure(figsize=(4.0 * len(sigmas), 2.9 * len(rows) + 1.0), layout="constrained")
    axes = figure.subplots(len(rows), len(sigmas), squeeze=False)
    for line, (of, name) in zip(axes, rows, strict=True):
        for axis, sigma in zip(line, sigmas, strict=True):
            _draw_plane(axis, [x for x in of.results if x.sigma == sigma and _has(x, name)], name)
            count = f"{of.in_full} picture{'s' * (of.in_full != 1)}"
            axis.set_title(f"{verbatim(of.name)}, sigma {sigma:g} ({count})", fontsize=9)
            axis.set_xlabel("PSNR in dB (higher is better)", fontsize=8)
        line[0].set_ylabel(f"{TITLES[name]} (lower is better)", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        "Each point is one denoiser, or one setting of the knob: better is to the right and down.\n"
        "Flow map: from t = s (least error) to t = 1 (perfect perception, of an exact network), one evaluation each.",
        fontsize=10,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def _has(result: Result, name: str) -> bool:
    return result.full is not None and name in result.full.measures


def _draw_plane(axis, results: Sequence[Result], name: str) -> None:
    for method in dict.fromkeys(result.method for result in results if result.method != NOISY):  # it is far away
        means = [result.full.measures for result in results if result.method == method and result.full]
        x, y = ([at[key] for at in means] for key in ("psnr", name))
        if method not in (LOOKAHEAD, CHORD):
            axis.plot(x, y, ls="", ms=8, label=method_title(method), **MARKERS[method])
            continue
        axis.plot(
            x,
            y,
            label=f"{method_title(method)} ({'one evaluation' if method == LOOKAHEAD else 'two'})",
            **STYLE[method],
        )
        if method == LOOKAHEAD:
            for end, k, offset in (("t = s", 0, (5, 5)), ("t = 1", -1, (-9, -13))):
                axis.annotate(end, (x[k], y[k]), offset, textcoords="offset points", fontsize=8)
    axis.margins(0.15)
    axis.tick_params(labelsize=8)


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
                at = "" if made.lookahead is None else f"/{made.lookahead:g}"
                found[f"{sigma:g}/{made.method}{at}"] = to_uint8(image[cut])
    return found


def draw_strips(path: pathlib.Path, dataset: str, crops: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draw crops of pictures: a row for each picture and noise level; clean, noisy, by lookahead, by the rivals.

    Args:
      path: of the PNG.
      dataset: the name of the set.
      crops: by the name of the picture, from `crop_estimates`.
    """
    rows = [(name, sigma) for name, of in crops.items() for sigma in dict.fromkeys(k.split("/")[0] for k in of)]
    rows = [(name, sigma) for name, sigma in rows if sigma != "clean"]
    columns = {name: _columns(crops[name], sigma) for name, sigma in rows}
    width = max(len(found) for found in columns.values())
    figure = Figure(figsize=(1.45 * width + 0.3, 1.55 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), width, squeeze=False)
    for number, (line, (name, sigma)) in enumerate(zip(axes, rows, strict=True)):
        for axis, (title, key) in zip(line, columns[name].items(), strict=False):
            image = crops[name][key if key == "clean" else f"{sigma}/{key}"]
            axis.imshow(image, cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="antialiased")
            axis.set(xticks=[], yticks=[])
            axis.set_title(title if number == 0 else "", fontsize=8)
        for axis in line[len(columns[name]) :]:
            axis.remove()
        line[0].set_ylabel(verbatim(f"{name[-24:]}\nsigma {sigma}"), fontsize=7)
    where = f"where each picture has most detail, at most {CROP}x{CROP} pixels"
    figure.suptitle(f"{verbatim(dataset)}: {where}", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _columns(crops: Mapping[str, np.ndarray], sigma: str) -> dict[str, str]:
    """The keys of the crops of a row, without the noise level, by their titles."""
    keys = [key.split("/", 1)[1] for key in crops if key.startswith(f"{sigma}/")]
    found = {"clean": "clean", "noisy": NOISY}
    ends = {"0": "\n(t = s)", "1": "\n(t = 1)"}
    for key in keys:
        method, _, r = key.partition("/")
        if method == LOOKAHEAD:
            found[f"flow map, r = {r}{ends.get(r, '')}"] = key
        elif method != NOISY:
            found[method_title(method)] = key
    return found
