"""Figures that compare a learned field with the exact one."""

import pathlib
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fmdp.evaluation.denoising import Sweep
from fmdp.evaluation.results import Bounds, KnownTargetCurve, KnownTargetLevel, StationaryLaw, TwoComponentsLevel
from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8
from fmdp.reporting.curves import NAMES, STYLE


def draw_truth(path: pathlib.Path, levels: list[KnownTargetLevel], images: int) -> None:
    """Draw every curve together with the optimal frontier, and below them the excess of each curve over it."""
    figure = Figure(figsize=(4.2 * len(levels), 7.5), layout="constrained")
    above, below = figure.subplots(2, len(levels), squeeze=False)
    for plane, excess, level in zip(above, below, levels, strict=True):
        p, low, high = (
            np.array([getattr(row, key) for row in level.frontier]) for key in ("perception", "mse", "mse_high")
        )
        plane.fill_betweenx(p, low, high, color="0.6", alpha=0.5, lw=0)
        name = "optimal frontier (between bounds)" if (high > low).any() else "optimal frontier"
        plane.plot(low, p, color="0.3", lw=1.2, label=name)
        for curve in level.curves:
            style, name = _curve_style(curve), f"{curve.field} {NAMES.get(curve.knob, curve.knob)}"
            x = [point.mse for point in curve.points]
            y = np.sqrt(_ends([point.squared_w2 for point in curve.points]))
            plane.errorbar(x, y.mean(1), np.ptp(y, 1) / 2, elinewidth=0.8, label=name, **style)
            if curve.knob in ("lookahead", "chord"):
                shown = [point for point in curve.points if point.excess.low is not None]
                r = [point.setting for point in shown]
                e = 100 * _ends([point.excess for point in shown])
                if len(e):
                    excess.errorbar(r, e.mean(1), np.ptp(e, 1) / 2, elinewidth=0.8, label=name, **style)
        plane.set(title=f"noise level {level.noise_level:.2g}", xlabel="mean squared error per pixel")
        excess.set(xlabel="setting of the knob (0: least error, 1: t = 1)")
        excess.axhline(0, color="0.3", lw=0.8)
    above[0].set_ylabel("W2 distance to the data, per root pixel")
    below[0].set_ylabel("MSE above the optimum at equal W2 (%)")
    figure.legend(*above[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        f"Lower left is better; nothing can lie left of the frontier. {images} images of a known distribution, one draw"
        " of the noise, one trained network.\nBars: what is known of a distance (bounds), or nothing where it is exact",
        fontsize=9,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _ends(bounds: list[Bounds]) -> np.ndarray:
    """The lower and upper bounds, [n, 2]."""
    return np.array([[bound.low, bound.high] for bound in bounds], float)


def _curve_style(curve: KnownTargetCurve) -> dict[str, Any]:
    style = dict(STYLE[curve.knob])
    if curve.field == "exact":
        style |= {"color": {"lookahead": "#000000", "chord": "#d62728"}[curve.knob], "marker": ""}
    return style


def draw_points(path: pathlib.Path, clean: np.ndarray, swept: Sweep, columns: int = 6) -> None:
    """Draw points of the plane [n, 1, 1, 2] at growing lookaheads, over the clean ones."""
    curve = swept.curves["lookahead"]
    shown = np.linspace(0, len(curve.settings) - 1, columns).astype(int)
    figure = Figure(figsize=(2.3 * (columns + 1), 2.9), layout="constrained")
    axes = figure.subplots(1, columns + 1, sharex=True, sharey=True)
    clouds = [swept.noisy[0] / swept.s, *curve.restored[shown, 0]]
    titles = ["noisy $x_s / s$", *(f"t = {swept.s + curve.settings[k] * (1 - swept.s):.2f}" for k in shown)]
    for axis, cloud, title in zip(axes, clouds, titles, strict=True):
        axis.scatter(*clean.reshape(-1, 2)[:1000].T, s=2, color="0.8", lw=0)
        axis.scatter(*cloud.reshape(-1, 2)[:1000].T, s=2, color=STYLE["lookahead"]["color"], lw=0)
        axis.set_title(title, fontsize=9)
        axis.set_aspect("equal")
    axes[0].set(xlim=(1, 7), ylim=(1, 8))
    figure.suptitle(f"Estimates (blue) over clean data (gray) as the lookahead grows from s = {swept.s:.1f}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_samples(path: pathlib.Path, real: np.ndarray, drawn: np.ndarray, rows: int = 5, columns: int = 10) -> None:
    """Draw real images (left) next to samples of a distribution fitted to them (right)."""
    figure = Figure(figsize=(9.5, 2.8), layout="constrained")
    for axis, images, title in zip(figure.subplots(1, 2), (real, drawn), ("real", "drawn from the model"), strict=True):
        tiles = np.stack([np.pad(to_uint8(image), 1, constant_values=128) for image in images[: rows * columns]])
        sheet = np.concatenate(np.concatenate(tiles.reshape(rows, columns, *tiles.shape[1:]), 1), 1)
        axis.imshow(sheet, cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=title)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_two_components(path: pathlib.Path, levels: list[TwoComponentsLevel]) -> None:
    """Draw squared W2 along the exact lookahead, between its bounds and by optimal assignment."""
    figure = Figure(figsize=(4.2 * len(levels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(levels), squeeze=False)[0]
    for axis, level in zip(axes, levels, strict=True):
        low, high = _ends(level.bracket.squared_w2).T
        assigned = _ends(level.assignment.squared_w2)[:, 0]
        color = STYLE["lookahead"]["color"]
        axis.fill_between(level.times, low, high, color=color, alpha=0.3, lw=0, label="between bounds")
        axis.errorbar(level.times, assigned, level.floor, fmt="k.", ms=4, lw=0.8, label="assignment (bar: its floor)")
        axis.set(title=f"noise level {level.noise_level:.2g}", xlabel="lookahead t")
    axes[0].set_ylabel("squared W2 to the data, per coordinate")
    axes[0].legend(fontsize=8)
    figure.suptitle("The bracket checked by optimal assignment: digits in two principal components", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_plug_and_play(path: pathlib.Path, rows: list[StationaryLaw]) -> None:
    """Draw the limit of plug-and-play: its fixed point without renoising, and its variance with renoising."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = [row.t for row in rows]
    panels = (
        (left, "shift", "half of the image is measured", "k"),
        (right, "variance", "half of the image is measured", "k"),
        (right, "free_variance", "nothing is measured", STYLE["lookahead"]["color"]),
    )
    for axis, name, label, color in panels:
        axis.plot(t, [getattr(row, name) for row in rows], color=color, label=f"closed form: {label}")
        axis.plot(t, [getattr(row, f"{name}_run") for row in rows], "o", color=color, ms=4, label="run")
    left.set_title("without renoising: energy of the fixed point,\nrelative to the true image's", fontsize=10)
    right.set_title("with renoising: total variance of the iterates,\nrelative to the prior's", fontsize=10)
    for axis in (left, right):
        axis.set(xlabel="lookahead t", ylim=(0, 1.1))
        axis.legend(fontsize=8)
    figure.suptitle(
        "Plug-and-play with the exact field of a Gaussian: less shrinkage as the lookahead grows", fontsize=10
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
