"""The files of a comparison of solvers: the table, and the plane and strips of every task."""

import csv
import pathlib

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fmdp.evaluation.results import SolverResult, SolverRun
from fmdp.evaluation.solver_comparison import ITERATES, LPIPS, ComparedImages
from fmdp.io.dataclass_json import to_json
from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8
from fmdp.reporting.curves import STYLE, verbatim
from fmdp.reporting.markdown import signed, table_row, table_rule

BASELINES = {
    "pnp_flow": ("D", "#3b8540"),
    "ot_ode": ("v", "#8a4fa3"),
    "flow_priors": ("P", "#b3283c"),
    "d_flow": ("X", "#4d4d4d"),
    "dps": ("^", "#a07a12"),
    "flower": ("*", "#d1477d"),
}
NOTES = """\
Means over {images} images and {seeds} seeds of masks, kernels, noise and solvers. PSNR and SSIM are those of the
clipped restoration, and LPIPS (version 0.1, AlexNet) takes it as an eight-bit file gives it back. The differences are
from the flow map at t = s on the same images and seeds, ± their standard errors over the images."""
SHADES = ("#1764ab", "#6ea6d9", "#b5d0ea", "#d6e4f2")  # curves with more steps are darker


def write_table(path: pathlib.Path, rows: list[SolverRun]) -> None:
    """Write one CSV line per run of a solver; a failed run has the reason."""
    lines = [to_json(row) for row in rows]
    columns = dict.fromkeys(key for line in lines for key in line if key not in ("seeds", "change"))
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)


def write_markdown(path: pathlib.Path, rows: list[SolverRun], images: int, seeds: int) -> None:
    """Write one table per task in Markdown, with differences from the flow map at t = s on the same images."""
    lines = ["# Inverse problems", "", *NOTES.format(images=images, seeds=seeds).splitlines(), ""]
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        lpips = any(LPIPS in row.measures for row in mine)
        header = ["method", "evaluations", "PSNR, dB", "from t = s", "SSIM", *(["LPIPS", "from t = s"] * lpips)]
        lines += [f"## {task.replace('_', ' ')}", "", table_row(header), table_rule(header)]
        lines += [table_row(_cells(row, lpips)) for row in mine] + [""]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n")


def _cells(row: SolverRun, lpips: bool) -> list[str]:
    name = row.solver.replace("_", " ")
    if row.solver == "pnp":
        knob = "chord" if row.knob == "chord" else "flow map"
        name = f"{knob}, {describe_setting(row.t_or_lookahead)}"
    if row.failed is not None:
        return [name, f"failed: {row.failed}".replace("|", "/"), *[""] * (5 if lpips else 3)]
    cost = f"{row.nfe:.0f}{', with gradients' if row.differentiated else ''}"
    x, change = row.measures, row.change or {}
    cells = [name, cost, f"{x['psnr_clipped']:.2f}", _change(change, "psnr_clipped", 2), f"{x['ssim']:.3f}"]
    return cells + ([f"{x[LPIPS]:.3f}", _change(change, LPIPS, 3)] if lpips else [])


def _change(change: dict[str, float], name: str, digits: int) -> str:
    return signed(change, name, digits) if change.get(name) else ""  # t = s itself, or there is none to compare with


def describe_setting(lookahead: float | None) -> str:
    """A lookahead for a person, however it is read."""
    value = lookahead or 0.0
    return {0.0: "t = s", 1.0: "t = 1"}.get(value, f"lookahead {value:g}")


def draw_planes(path: pathlib.Path, result: SolverResult, images: int, seeds: int) -> None:
    """Draw the distortion-perception plane of every task: plug-and-play's curves, and each baseline as a point.

    Perception is the kernel distance, or LPIPS where it was measured on fewer images than tell sets apart.

    Args:
      path: of the PNG.
      result: of `solver_comparison.compare_solvers`.
      images, seeds: of each point.
    """
    floor = result.inverse_floor["kernel_distance"]
    tasks = list(dict.fromkeys(row.task for row in result.inverse))
    columns = min(len(tasks), 2)
    figure = Figure(figsize=(5.4 * columns, 4 * -(-len(tasks) // columns) + 0.9), layout="constrained")
    axes = figure.subplots(-(-len(tasks) // columns), columns, squeeze=False).ravel()
    fine = [row for row in result.inverse if row.failed is None]
    by_lpips = all("kernel_distance" not in row.measures for row in fine)
    measure, ylabel = (LPIPS, "LPIPS (AlexNet)") if by_lpips else ("kernel_distance", "kernel distance MMD²")
    titles = {solver: _baseline_title([row for row in fine if row.solver == solver]) for solver in BASELINES}
    for axis, task in zip(axes, tasks, strict=False):
        _draw_plane(axis, [row for row in fine if row.task == task], measure, titles)
        if not by_lpips:
            axis.set_yscale("symlog", linthresh=1e-3)
            axis.axhspan(floor.low, floor.high, color="0.5", alpha=0.25, lw=0, label="real against real")
        axis.set(title=verbatim(task.replace("_", " ")), xlabel="mean squared error per pixel", ylabel=ylabel)
    for axis in axes[len(tasks) :]:
        axis.remove()
    every = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes[: len(tasks)]]
    entries = {label: handle for entries in every for handle, label in entries}  # a solver may fail on a task
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        "Lower is better on both axes. Blue: plug-and-play with the flow map from t = s (large dot) to t = 1.\n"
        f"{images} held-out images, {seeds} seeds (bars: standard deviation over them), one trained network"
        + ("" if by_lpips else "; band: 95 % of real sets against real ones"),
        fontsize=9,
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _baseline_title(rows: list[SolverRun]) -> str:
    """The name of a solver in the legend, with its evaluations, which may differ between the tasks."""
    if not rows:
        return ""
    counts = [row.nfe or 0 for row in rows]
    evaluations = " to ".join(dict.fromkeys(f"{count:.0f}" for count in (min(counts), max(counts))))
    return f"{rows[0].solver}, {evaluations} evaluations{' and gradients' if rows[0].differentiated else ''}"


def _draw_plane(axis, rows: list[SolverRun], measure: str, titles: dict[str, str]) -> None:
    curves: dict[tuple[str, int], list[SolverRun]] = {}
    for row in rows:
        if row.solver == "pnp":
            curves.setdefault((row.knob, row.steps or 0), []).append(row)
    shades = dict(zip(sorted({steps for _, steps in curves}, reverse=True), SHADES, strict=False))
    for (knob, steps), points in curves.items():
        if knob == "chord":
            style, name = STYLE["chord"], f"chord, {2 * steps} evaluations"
        else:
            color = shades.get(steps, SHADES[-1])
            style, name = STYLE["lookahead"] | {"color": color}, f"lookahead, {steps} evaluations"
        x, y, dx, dy = _coordinates(points, measure)
        axis.errorbar(x, y, dy, dx, elinewidth=0.5, label=name, **style)
        axis.plot(x[:1], y[:1], **style | {"ms": 7.5 if knob == "chord" else 6, "label": ""})
    for row in rows:
        if row.solver in BASELINES:
            marker, color = BASELINES[row.solver]
            x, y, dx, dy = _coordinates([row], measure)
            axis.errorbar(
                x, y, dy, dx, marker=marker, ms=8, ls="", elinewidth=0.7, color=color, label=titles[row.solver]
            )
    axis.set_xscale("log")
    axis.margins(0.08, 0.12)


def _coordinates(points: list[SolverRun], measure: str) -> tuple[np.ndarray, ...]:
    names = ("mse", measure, "mse_draw_std", f"{measure}_draw_std")
    return tuple(np.array([point.measures[name] for point in points]) for name in names)


def draw_strips(path: pathlib.Path, pictures: dict[str, ComparedImages]) -> None:
    """Draw one image of every task: clean, measured, restored at three lookaheads and by each baseline."""
    tiles = {task: _strip(images) for task, images in pictures.items()}
    columns = max(len(strip) for strip in tiles.values())
    figure = Figure(figsize=(1.15 * columns, 1.4 * len(pictures) + 0.6), layout="constrained")
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for line, (task, strip) in zip(axes, tiles.items(), strict=True):
        _draw_tiles(line, strip)
        line[0].set_ylabel(verbatim(task.replace("_", "\n")), fontsize=7)
    figure.suptitle("One held-out image, first seed; what each solver made of the same measurement", fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _strip(images: ComparedImages) -> list[tuple[np.ndarray, str]]:
    """The images of one line, with their titles."""
    tiles = [(images.clean, "clean"), (images.measured, "measured")]
    curve = [(run, image) for run, image in images.restored if run.solver == "pnp" and run.knob != "chord"]
    longest = max((run.steps for run, _ in curve), default=0)
    curve = [(run, image) for run, image in curve if run.steps == longest]
    for k in sorted({0, len(curve) // 2, len(curve) - 1}) if curve else ():
        run, image = curve[k]
        tiles.append((image, f"flow map\n{describe_setting(run.setting)}"))
    return tiles + [(image, run.solver.replace("_", " ")) for run, image in images.restored if run.solver in BASELINES]


def draw_iterates(path: pathlib.Path, pictures: dict[str, ComparedImages]) -> None:
    """Draw plug-and-play's iterates on one image of every task, at both ends of the lookahead."""
    lines = [(t, r, x) for t, images in pictures.items() for r, x in images.iterates.items()]
    if not lines:
        return
    figure = Figure(figsize=(1.15 * len(ITERATES) + 0.8, 1.25 * len(lines) + 0.6), layout="constrained")
    axes = figure.subplots(len(lines), len(ITERATES), squeeze=False)
    for number, (line, (task, lookahead, iterates)) in enumerate(zip(axes, lines, strict=True)):
        titles = [f"{share:.0%} of the steps" if number == 0 else "" for share in ITERATES]
        _draw_tiles(line, list(zip(iterates, titles, strict=True)))
        line[0].set_ylabel(f"{verbatim(task.replace('_', ' '))}\n{'t = 1' if lookahead else 't = s'}", fontsize=6)
    figure.suptitle("Plug-and-play on its way", fontsize=9)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_tiles(axes, tiles: list[tuple[np.ndarray, str]]) -> None:
    for axis, (image, title) in zip(axes, tiles, strict=False):
        axis.imshow(to_uint8(image), cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="antialiased")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=7)
    for axis in axes[len(tiles) :]:
        axis.remove()
