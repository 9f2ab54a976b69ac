"""The planes as pictures: the lookahead lies over the others, and no words lie over data, frame or each other."""

import itertools
import pathlib
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from fmdp.evaluation.results import DenoisingResult, KnownTargetLevel, SolverResult
from fmdp.io.dataclass_json import from_json
from fmdp.reporting import known_target as known_target_figures
from fmdp.reporting import solvers as solver_figures
from fmdp.reporting.curves import draw_plane
from tests.reporting import test_html_page

FLOOR = {"mean": -4e-4, "low": -7.3e-4, "high": 4e-5}


def points(**more):
    rows = []
    for r in np.linspace(0, 1, 8).tolist():
        row = {"mse": 0.23 + 0.1 * r, "kernel_distance": 0.07 * (1 - r) ** 6 - 6e-4 * r, "t_or_lookahead": r}
        row |= {"setting": r, "evaluations": 1}
        rows.append(row | {"mse_draw_std": 2e-3, "kernel_distance_draw_std": 5e-5} | more)
    return rows


def denoising():
    curves = [
        {"noise_level": level, "s": 1 - level, "knob": knob, "points": points()}
        for level in (0.3, 0.7)
        for knob in ("lookahead", "chord", "blend")
    ]
    floor = {"kernel_distance": FLOOR}
    result = {"denoise": curves, "floor": floor, "images": 9, "draws": 2, "residuals": [], "weights": {}}
    return from_json(DenoisingResult, result, "result")


def comparison():
    pnp = {"task": "a", "solver": "pnp", "steps": 20, "nfe": 20}
    rows = [*points(knob="relative", **pnp), *points(knob="chord", **pnp)]
    rows += points(knob="", **pnp | {"solver": "dps"})[:1]
    result = {"inverse": rows, "inverse_floor": {"kernel_distance": FLOOR}, "matched": [], "tuned": []}
    return from_json(SolverResult, result, "result")


def drawn(draw, *arguments):
    """The figure that a function draws."""
    figures = []

    def keep(figure, path, **_):
        figures.append(figure)
        pathlib.Path(path).touch()

    with mock.patch.object(Figure, "savefig", keep):
        draw(*arguments)
    FigureCanvasAgg(figures[0]).draw()
    return figures[0]


def draw_all(folder):
    levels = [from_json(KnownTargetLevel, test_html_page.truth(5), "level")]
    return {
        "plane": drawn(draw_plane, folder / "plane.png", denoising()),
        "inverse": drawn(solver_figures.draw_planes, folder / "inverse.png", comparison(), 9, 2),
        "truth": drawn(known_target_figures.draw_truth, folder / "truth.png", levels, 9),
    }


def test_solvers_on_few_images_are_compared_by_lpips_where_it_is_measured(tmp_path):
    few, many, unmeasured = comparison(), comparison(), comparison()
    for result in (few, many):
        for number, row in enumerate(result.inverse):
            row.measures.update({"lpips_alex": 0.3 - 0.01 * number, "lpips_alex_draw_std": 0.01})
    for row in few.inverse:
        del row.measures["kernel_distance"]
    for result, images, name in (
        (few, 8, "LPIPS (AlexNet)"), (many, 200, "kernel distance MMD²"), (unmeasured, 8, "kernel distance MMD²")
    ):  # fmt: skip
        figure = drawn(solver_figures.draw_planes, tmp_path / "plane.png", result, images, 2)
        axis = figure.axes[0]
        assert axis.get_ylabel() == name
        (curve,) = (bars[0] for bars in axis.containers if bars.get_label().startswith("lookahead"))
        wanted = [row.measures["lpips_alex" if "LPIPS" in name else "kernel_distance"] for row in result.inverse[:8]]
        np.testing.assert_allclose(curve.get_ydata(), wanted)
        assert ("real against real" in axis.get_legend_handles_labels()[1]) == ("LPIPS" not in name)


@pytest.mark.parametrize("name", ["plane", "inverse", "truth"])
def test_lookahead_lies_over_the_other_knobs(name, tmp_path):
    axis = draw_all(tmp_path)[name].axes[0]
    lines = {bars.get_label().replace("learned ", "").split(",")[0].split(" (")[0]: bars[0] for bars in axis.containers}
    lookahead = lines.pop("lookahead")
    assert "chord" in lines
    for label, line in lines.items():
        if "exact" not in label:
            assert line.get_zorder() < lookahead.get_zorder(), label
    chord = lines["chord"]
    assert chord.get_linewidth() < lookahead.get_linewidth()
    assert chord.get_markersize() > lookahead.get_markersize()
    assert to_rgba(chord.get_markerfacecolor())[3] == 0
    assert to_rgba(lookahead.get_markerfacecolor())[3] == 1


@pytest.mark.parametrize("name", ["plane", "inverse", "truth"])
def test_legend_is_outside_and_ticks_leave_each_other_room(name, tmp_path):
    figure = draw_all(tmp_path)[name]
    assert len(figure.legends) == 1
    for axis in figure.axes:
        assert axis.get_legend() is None
        assert not figure.legends[0].get_window_extent().overlaps(axis.get_tightbbox())
        low, high = axis.get_ylim()
        ticks = [tick for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        boxes = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_text()]
        assert len(boxes) >= 2
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_names_of_the_ends_stay_inside_the_frame(tmp_path):
    for axis in draw_all(tmp_path)["plane"].axes:
        assert len(axis.texts) == 2
        frame = axis.get_window_extent()
        for text in axis.texts:
            box = text.get_window_extent()
            assert frame.x0 < box.x0
            assert frame.y0 < box.y0
            assert box.x1 < frame.x1
            assert box.y1 < frame.y1
