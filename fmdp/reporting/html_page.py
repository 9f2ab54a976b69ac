"""The report page of a run: report.html, one self-contained file with its numbers and pictures."""

import math
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fmdp.evaluation.summary import Summary
from fmdp.io.files import atomic_write
from fmdp.reporting.panels import OF_IMAGES, OMITTED, Curve, Panel, Plane, build_panels, set_scales
from fmdp.reporting.pictures import Pictures
from fmdp.reporting.templating import TEMPLATES, data_uri

WIDTH, HEIGHT = 600, 420  # of a plane, in units of its SVG
LEFT, RIGHT, TOP, BOTTOM = 84, 18, 38, 58
APART = 26.0  # smallest distance between ticks
ROUND = [0.0, *(sign * m * 10.0**e for m in (1, 5, 2) for e in range(6, -9, -1) for sign in (1, -1))]
"""Candidate ticks of logarithmic axes. Where there is no room for all, the earlier ones take precedence."""
MEASURES = {
    "kernel_distance": "kernel distance",
    "frechet_distance": "Fréchet distance",
    "kid": "KID",
    "fid": "FID",
    "vgg16_kid": "KID on VGG16",
    "vgg16_frechet": "Fréchet distance on VGG16",
    "w2": "Wasserstein distance",
} | OF_IMAGES
COLUMNS = MEASURES | {
    "t_or_lookahead": "lookahead",
    "nfe": "evaluations",
    "differentiated": "of them differentiated",
    "mse": "MSE",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "dists": "DISTS",
    "vgg16_precision": "precision on VGG16",
    "vgg16_recall": "recall on VGG16",
}


def write_page(path: pathlib.Path, summary: Summary, pictures: Pictures) -> None:
    """Write the page atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(render_page(summary, pictures), encoding="utf-8")


def render_page(summary: Summary, pictures: Pictures) -> str:
    """The page as HTML.

    Args:
      summary: sections that are None are left out.
      pictures: from `pictures.denoising_pictures` and `pictures.inverse_pictures`.
    """
    views = [_lay_out(panel) for panel in build_panels(summary, pictures)]
    levels = [index for index, view in enumerate(views) if view["group"] == "Denoising"]
    size = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "foot": HEIGHT - BOTTOM}
    return TEMPLATES.get_template("report.html.j2").render(
        title=summary.config,
        facts=_facts(summary),
        views=views,
        start=levels[-1] if levels else 0,
        data=[_script_data(view) for view in views],
        made=_made(summary),
        size=size,
    )


def _facts(summary: Summary) -> list[tuple[str, Any]]:
    """What the run was and how long it took, as names and values."""
    facts: list[tuple[str, Any]] = [("backend", summary.backend), ("devices", summary.devices)]
    facts += [("held-out images", summary.images), ("draws of the noise", summary.draws)]
    facts += [(name.replace("_", " "), value) for name, value in (summary.data or {}).items()]
    facts += [(f"started from: {name}", value) for name, value in (summary.started_from or {}).items()]
    for name, value in (summary.train or {}).items():
        facts += [(f"training: {name.replace('_', ' ')}", f"{value:.6g}")] if math.isfinite(value) else []
    facts += [(f"seconds: {name}", f"{value:.1f}") for name, value in (summary.seconds or {}).items()]
    return [(name, value) for name, value in facts if value is not None]


def _made(summary: Summary) -> list[dict[str, Any]]:
    """How the run and the comparison of solvers were made, where that is known."""
    made = []
    for name, how in (("run", summary.made), ("inverse run", summary.inverse_made)):
        if how is None:
            continue
        seed = str(how.config.get("seed", "not known"))
        inverse = how.config.get("inverse")
        if name == "inverse run" and isinstance(inverse, dict) and "seeds" in inverse:
            times = "once" if inverse["seeds"] == 1 else f"{inverse['seeds']} times"
            seed += f"; masks, noise and solvers drawn {times}"
        made.append({"name": name, "seed": seed, "how": how})
    return made


def _script_data(view: dict[str, Any]) -> dict[str, Any]:
    """The part of a view that the page's script needs."""
    data = {key: view[key] for key in ("group", "ends", "positions")}
    planes = ("measure", "title", "marker", "readout")
    data["planes"] = [{key: plane[key] for key in planes} for plane in view["planes"]]
    data["pictures"] = [{key: row[key] for key in ("restored", "residual")} for row in view["pictures"]]
    return data


def _lay_out(view: Panel) -> dict[str, Any]:
    """A panel in the form that the template expects."""
    return {
        "group": view.group,
        "name": view.name,
        "parameters": _parameters(view.parameters),
        "ends": _ends(view),
        "positions": view.positions,
        "planes": [_draw(plane, view.positions) for plane in view.planes],
        "pictures": _rows(view),
        "others": {name: data_uri(images[0]) for name, images in view.others.items()},
        "tables": [{"title": title} | _table(rows) for title, rows in view.tables.items()],
    }


def _parameters(parameters: dict[str, Any]) -> str:
    """The parameters of a task, its operator first."""
    names = sorted(parameters, key=lambda name: (name != "operator", name))
    return ", ".join(f"{name.replace('_', ' ')} {parameters[name]}" for name in names)


def _ends(view: Panel) -> tuple[str, str]:
    """The labels at the two ends of the slider. Only for a single denoising step is the effect of the ends known."""
    if view.group == "Denoising":
        return "t = s: for least error", "t = 1: to look real"
    return (view.positions[0], view.positions[-1]) if view.positions else ("", "")


def _rows(view: Panel) -> list[dict[str, Any]]:
    """The pictures of a view, a row for each image."""
    if view.clean is None or view.measured is None or view.restored is None or not view.positions:
        return []
    # A pixel's 255 levels span [-1, 1], so an error of 1 is 127.5 levels; white is 1 or more.
    residual = np.abs(view.restored.astype(int) - view.clean)
    residual = np.minimum(2 * residual, 255).astype(np.uint8)
    return [
        {
            "clean": data_uri(view.clean[i]),
            "measured": data_uri(view.measured[i]),
            "restored": [data_uri(image) for image in view.restored[:, i]],
            "residual": [data_uri(image) for image in residual[:, i]],
            "width": view.clean.shape[2],
        }
        for i in range(len(view.clean))
    ]


def _draw(plane: Plane, positions: list[str]) -> dict[str, Any]:
    """A plane in units of its SVG. Matplotlib chooses scales and ticks, as in the run's other figures."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
    box = (LEFT / WIDTH, BOTTOM / HEIGHT, (WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT)
    axis = figure.add_axes(box)
    axis.margins(0.07, 0.09)
    for curve in plane.curves:
        if curve.style != "frontier":
            axis.plot(curve.x, curve.y)
    if plane.band:
        axis.axhspan(*plane.band)
    set_scales(axis, plane)

    def place(x, y):
        with np.errstate(all="ignore"):
            points = axis.transData.transform(np.column_stack([x, y]))
        return [[round(a, 1), round(HEIGHT - b, 1)] if np.isfinite([a, b]).all() else None for a, b in points.tolist()]

    (x0, x1), (y0, y1) = sorted(axis.get_xlim()), sorted(axis.get_ylim())
    x_ticks = [v for v in (ROUND if axis.get_xscale() == "log" else axis.get_xticks()) if x0 <= v <= x1]
    y_ticks = [v for v in (ROUND if axis.get_yscale() == "symlog" else axis.get_yticks()) if y0 <= v <= y1]
    first = plane.curves[0]
    return {
        "measure": plane.measure,
        "title": MEASURES[plane.measure],
        "label": plane.label,
        "curves": [_line(curve, place) for curve in plane.curves],
        "band": [place([x0], [end])[0][1] for end in reversed(plane.band)] if plane.band else None,
        "x_ticks": _apart([(place([v], [y0])[0][0], v) for v in x_ticks], 2 * APART),
        "y_ticks": _apart([(place([x0], [v])[0][1], v) for v in y_ticks], APART),
        "marker": place(first.x, first.y),
        "readout": [
            f"{position}: distortion (MSE) {x:.4g}, {MEASURES[plane.measure]} {y:.3g}".replace("-", "−")
            for position, x, y in zip(positions, first.x, first.y, strict=True)
        ],
    }


def _line(curve: Curve, place) -> dict[str, Any]:
    bars = []
    if curve.low is not None and curve.high is not None:
        ends = zip(place(curve.x, curve.low), place(curve.x, curve.high), strict=True)
        bars = [(*a, b[1]) for a, b in ends if a and b and abs(a[1] - b[1]) > 2]
    return {"name": curve.name, "style": curve.style, "points": [p for p in place(curve.x, curve.y) if p], "bars": bars}


def _apart(ticks: list[tuple[float, float]], least: float) -> list[tuple[float, str]]:
    """Those of the ticks (place, value) that are at least `least` apart; earlier ticks take precedence."""
    kept: list[tuple[float, float]] = []
    for place, value in ticks:
        if all(abs(place - other) >= least for other, _ in kept):
            kept.append((place, value))
    return [(place, f"{value:.6g}".replace("-", "−")) for place, value in sorted(kept)]


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns and rows of plain values. Each end of a bound gets its own column; standard deviations are left out."""
    flat = [
        {
            (f"{key} {end}" if end else key): part
            for key, value in row.items()
            for end, part in (value.items() if isinstance(value, dict) else [("", value)])
        }
        for row in rows
    ]
    columns = dict.fromkeys(key for row in flat for key in row if not key.endswith(OMITTED))
    titles = [COLUMNS.get(column, column.replace("_", " ")) for column in columns]
    return {"columns": titles, "rows": [[row.get(column) for column in columns] for row in flat]}
