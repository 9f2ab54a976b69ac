"""The page of a run: report.html, one file that needs nothing else, made of its numbers and pictures."""

import base64
import io
import json
import math
import pathlib
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from fmdp.io.files import atomic_write
from fmdp.reporting.panels import OMITTED, Curve, Panel, Pictures, Plane, build_panels, set_scales

WIDTH, HEIGHT = 600, 420  # of a plane, in units of its SVG
LEFT, RIGHT, TOP, BOTTOM = 84, 18, 38, 58
APART = 26.0  # between ticks, at least
ROUND = [0.0, *(sign * m * 10.0**e for m in (1, 5, 2) for e in range(6, -9, -1) for sign in (1, -1))]
"""Ticks of logarithmic axes, those first that are shown where there is no room for all."""
LOSSLESS = 96  # pixels a side; larger pictures are compressed with loss, for the page to stay small
MEASURES = {
    "kernel_distance": "kernel distance",
    "frechet_distance": "Fréchet distance",
    "kid": "KID",
    "fid": "FID",
    "w2": "Wasserstein distance",
}
COLUMNS = MEASURES | {
    "t_or_lookahead": "lookahead",
    "nfe": "evaluations",
    "differentiated": "of them differentiated",
    "mse": "MSE",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
}


def write_page(path: pathlib.Path, summary: dict[str, Any], pictures: Pictures) -> None:
    """Write the page, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(render_page(summary, pictures), encoding="utf-8")


def render_page(summary: dict[str, Any], pictures: Pictures) -> str:
    """The page as HTML.

    Args:
      summary: what is in summary.json; what it lacks is left out.
      pictures: of `views.denoising_pictures` and `views.inverse_pictures`.
    """
    laid = [_lay_out(view) for view in build_panels(summary, pictures)]
    levels = [index for index, view in enumerate(laid) if view["group"] == "Denoising"]
    made = {name: summary[key] for name, key in (("run", "made"), ("inverse run", "inverse_made")) if key in summary}
    data = [{key: view[key] for key in ("group", "ends", "positions", "planes", "pictures")} for view in laid]
    for view in data:
        view["planes"] = [
            {key: plane[key] for key in ("measure", "title", "marker", "readout")} for plane in view["planes"]
        ]
        view["pictures"] = [{key: row[key] for key in ("restored", "residual")} for row in view["pictures"]]
    environment = Environment(
        loader=PackageLoader("fmdp.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    environment.tests["finite"] = lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )
    size = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "foot": HEIGHT - BOTTOM}
    return environment.get_template("report.html.j2").render(
        summary=summary, views=laid, start=levels[-1] if levels else 0, data=data, made=made, size=size
    )


def _lay_out(view: Panel) -> dict[str, Any]:
    """A view as the template takes it."""
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
    """What stands at the two ends of the slider. Only of one step of denoising is it known what they lead to."""
    if view.group == "Denoising":
        return "t = s: for least error", "t = 1: to look real"
    return (view.positions[0], view.positions[-1]) if view.positions else ("", "")


def _rows(view: Panel) -> list[dict[str, Any]]:
    """The pictures of a view, a row for each image."""
    if view.clean is None or view.measured is None or view.restored is None or not view.positions:
        return []
    # Beside [-1, 1] the pictures' scale is 127.5 wide: white is an error of 1 or more.
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


def data_uri(picture: np.ndarray) -> str:
    """A uint8 picture [H, W] or [H, W, 3] as a data URI."""
    lossless = max(picture.shape[:2]) <= LOSSLESS
    file = io.BytesIO()
    if lossless:
        Image.fromarray(picture).save(file, "PNG", optimize=True)
    else:
        Image.fromarray(picture).save(file, "JPEG", quality=88)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def _draw(plane: Plane, positions: list[str]) -> dict[str, Any]:
    """A plane in units of its SVG; matplotlib finds the scales and ticks, as in the other pictures of the run."""
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
    """The ticks (place, value) that leave each other room for their labels, the first before others."""
    kept: list[tuple[float, float]] = []
    for place, value in ticks:
        if all(abs(place - other) >= least for other, _ in kept):
            kept.append((place, value))
    return [(place, f"{value:.6g}".replace("-", "−")) for place, value in sorted(kept)]


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns and rows of plain values; what has ends becomes a column for each, deviations stay out."""
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
