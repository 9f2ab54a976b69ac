"""The content of a report: the planes, pictures and numbers of each noise level and task of a run.

Everything comes from the summary and the pictures of the run, so that its page can be rebuilt at any time.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fmdp.evaluation.results import DenoisingCurve, DenoisingPoint, KnownTargetLevel, Measures, SolverRun
from fmdp.evaluation.summary import Summary
from fmdp.io.dataclass_json import to_json
from fmdp.metrics.perception import NullInterval
from fmdp.reporting.curves import LOGARITHMIC, NAMES, PERCEPTION, SYMLOG_SPAN, set_symlog
from fmdp.reporting.pictures import Pictures

LEGEND = NAMES | {
    "lookahead": "lookahead (the slider)",
    "chord": "chord: the two ends mixed",
    "blend": "estimate and posterior sample mixed",
}
OF_IMAGES = {"lpips_alex": "LPIPS (AlexNet)", "lpips_vgg": "LPIPS (VGG16)"}
"""What stands for perception where there are too few images for distances between sets."""
OMITTED = ("_std", "seeds", "change", "reference")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of the plane, connected in this order. `low` and `high` bound y if it is not known exactly."""

    name: str
    style: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One plane: its curves and its perception measure. The slider moves along the first curve.

    `band` is the interval (low, high) of the measure between two sets of real images. `log` names the
    logarithmic axes; y is linear up to the width `linear`.
    """

    measure: str
    label: str
    curves: list[Curve]
    band: tuple[float, float] | None = None
    log: str = ""
    linear: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One noise level or one task: its planes, the positions of the slider, its pictures and its tables of rows.

    `parameters` are those of the task, if they are known.
    """

    group: str
    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    planes: list[Plane]
    positions: list[str]
    clean: np.ndarray | None = None
    measured: np.ndarray | None = None
    restored: np.ndarray | None = None
    others: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def build_panels(summary: Summary, pictures: Pictures) -> list[Panel]:
    """The panels of a run, noise levels first, then tasks.

    `pictures` are those made with the numbers in this summary, see `pictures.load_pictures`.
    """
    return _level_panels(summary, pictures) + _task_panels(summary, pictures)


def set_scales(axis, plane: Plane) -> None:
    """Make those axes of a matplotlib plot logarithmic that the plane asks for and whose range is large."""
    x = np.concatenate([curve.x for curve in plane.curves])
    if "x" in plane.log and np.nanmax(x) > SYMLOG_SPAN * np.nanmin(x) > 0:
        axis.set_xscale("log")
    if "y" in plane.log:
        set_symlog(axis, plane.linear)


def _level_panels(summary: Summary, pictures: Pictures) -> list[Panel]:
    curves, truth = summary.denoise or [], summary.truth or []
    panels = []
    for index, level in enumerate(dict.fromkeys(curve.noise_level for curve in curves)):
        chosen = [curve for curve in curves if curve.noise_level == level]
        chosen.sort(key=lambda curve: curve.knob != "lookahead")
        panels.append(
            _level_panel(
                f"noise level {level:g}",
                chosen,
                truth[index] if index < len(truth) else None,
                summary.floor or {},
                {name: pictures.get(f"denoise/{index}/{name}") for name in ("clean", "noisy", "restored")},
            )
        )
    return panels


def _level_panel(
    name: str,
    curves: list[DenoisingCurve],
    truth: KnownTargetLevel | None,
    floor: dict[str, NullInterval],
    pictures: dict[str, np.ndarray | None],
) -> Panel:
    """One noise level; the slider moves along the first of its curves."""
    measured = {measure for curve in curves for point in curve.points for measure in point.measures}
    planes = [
        _denoise_plane(curves, measure, floor[measure])
        for measure in PERCEPTION
        if measure in floor and measure in measured
    ]
    tables = {
        "All settings, knob by knob": [
            {"knob": curve.knob} | to_json(point) for curve in curves for point in curve.points
        ]
    }
    if truth is not None:
        planes.insert(0, _known_target_plane(truth))
        tables["The exact field and the optimal frontier"] = [
            {"field": curve.field, "knob": curve.knob} | to_json(point)
            for curve in truth.curves
            for point in curve.points
        ]
    return Panel(
        group="Denoising",
        name=name,
        planes=planes,
        positions=_positions(curves[0].points),
        clean=pictures["clean"],
        measured=pictures["noisy"],
        restored=pictures["restored"],
        tables=tables,
    )


def _positions(points: list[DenoisingPoint]) -> list[str]:
    """The lookahead times as text, with as many decimals as they need to differ."""
    times = [point.setting if point.t is None else point.t for point in points]
    names: list[str] = []
    for decimals in range(2, 7):
        names = [f"t = {t:.{decimals}f}" for t in times]
        if len(set(names)) == len(set(times)):
            break
    return names


def _denoise_plane(curves: list[DenoisingCurve], measure: str, floor: NullInterval) -> Plane:
    drawn = [
        _curve(LEGEND.get(curve.knob, curve.knob), curve.knob, [point.measures for point in curve.points], measure)
        for curve in curves
        if any(measure in point.measures for point in curve.points)
    ]
    return Plane(
        measure=measure,
        label=PERCEPTION[measure],
        curves=drawn,
        band=_band(floor),
        log="y" if measure in LOGARITHMIC else "",
        linear=_chance_width(floor),
    )


def _band(floor: NullInterval | None) -> tuple[float, float] | None:
    """The interval of a measure between two sets of real images; None if there are too few of them."""
    if floor is None or not (math.isfinite(floor.low) and math.isfinite(floor.high)):
        return None
    return floor.low, floor.high


def _chance_width(floor: NullInterval | None) -> float:
    """How far from zero a measure is by chance. A logarithmic axis should not magnify this range."""
    return 0.0 if floor is None else max(abs(floor.low), abs(floor.high))


def _curve(name: str, style: str, points: list[Measures], measure: str) -> Curve:
    x, y = (np.array([point.get(key, math.nan) for point in points], float) for key in ("mse", measure))
    return Curve(name=name, style=style, x=x, y=y)


def _known_target_plane(level: KnownTargetLevel) -> Plane:
    """The plane in which the optimum is known; its measure is W2 per root pixel."""
    curves = []
    for curve in level.curves:
        exact = curve.field == "exact"
        x = np.array([point.mse for point in curve.points])
        low = np.sqrt([point.squared_w2.low or 0.0 for point in curve.points])
        high = np.sqrt([point.squared_w2.high or 0.0 for point in curve.points])
        style = f"exact-{curve.knob}" if exact else curve.knob
        name = f"exact {curve.knob}" if exact else LEGEND.get(curve.knob, curve.knob)
        curves.append(Curve(name=name, style=style, x=x, y=(low + high) / 2, low=low, high=high))
    curves.sort(key=lambda curve: curve.style != "lookahead")
    x, high, y = (np.array([getattr(row, key) for row in level.frontier]) for key in ("mse", "mse_high", "perception"))
    name = "optimal frontier: nothing lies left of it"
    curves.append(Curve(name=name, style="frontier", x=(x + high) / 2, y=y))
    return Plane(measure="w2", label="Wasserstein distance W2 to the true distribution, per root pixel", curves=curves)


class Family(NamedTuple):
    """The runs of a solver that form one curve, because they differ only in their lookahead."""

    solver: str
    knob: str
    steps: int

    @property
    def label(self) -> str:
        """Its name in the legend."""
        if self.solver != "pnp":
            return self.solver.replace("_", " ")
        return f"flow map, {'chord' if self.knob == 'chord' else 'lookahead'}, {self.steps} steps"


def _task_panels(summary: Summary, pictures: Pictures) -> list[Panel]:
    rows = summary.inverse or []
    config = summary.inverse_made.config if summary.inverse_made else {}
    panels = []
    for index, task in enumerate(dict.fromkeys(row.task for row in rows)):
        names = ("clean", "noisy", "restored")
        shown = {name: pictures.get(f"inverse/{index}/{name}") for name in names}
        mine = [row for row in rows if row.task == task]
        panels.append(_task_panel(task, mine, summary.inverse_floor or {}, task_parameters(config, task), shown))
    return panels


def task_parameters(config: dict[str, Any], task: str) -> dict[str, Any]:
    """The parameters of a task in the configuration of a run; empty where it has none."""
    found: Any = config
    for name in ("inverse", "tasks", task):
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _task_panel(
    task: str,
    rows: list[SolverRun],
    floor: dict[str, NullInterval],
    parameters: dict[str, Any],
    pictures: dict[str, np.ndarray | None],
) -> Panel:
    fine = [row for row in rows if row.failed is None]
    families: dict[Family, list[int]] = {}
    for place, row in enumerate(fine):
        families.setdefault(Family(row.solver, row.knob, row.steps or 0), []).append(place)
    # The slider moves along the first one: the lookahead with the most steps.
    order = sorted(families, key=lambda family: (family.solver != "pnp", family.knob == "chord", -family.steps))
    of_sets = fine and any(measure in fine[0].measures for measure in PERCEPTION)
    measures = PERCEPTION if of_sets else OF_IMAGES
    planes = [
        Plane(
            measure=measure,
            label=measures[measure],
            curves=[
                _curve(family.label, _style(family, order), [fine[k].measures for k in families[family]], measure)
                for family in order
            ],
            band=_band(floor.get(measure)),
            log="xy" if measure in LOGARITHMIC else "x",
            linear=_chance_width(floor.get(measure)),
        )
        for measure in measures
        if fine and measure in fine[0].measures
    ]
    slid = families[order[0]] if order and order[0].solver == "pnp" else []
    restored = pictures["restored"]
    baselines = [family for family in order if family.solver != "pnp"]
    return Panel(
        group="Inverse problems",
        name=task.replace("_", " "),
        parameters=parameters,
        planes=planes if slid else [],
        positions=[f"lookahead {fine[k].t_or_lookahead or 0:g}" for k in slid],
        clean=pictures["clean"],
        measured=pictures["noisy"],
        restored=None if restored is None else restored[slid],
        others={} if restored is None else {family.label: restored[families[family][0]] for family in baselines},
        tables={
            "Every run of every solver": [
                {key: value for key, value in to_json(row).items() if key != "task"} for row in rows
            ]
        },
    )


def _style(family: Family, order: list[Family]) -> str:
    if family.solver != "pnp":
        return family.solver
    return "chord" if family.knob == "chord" else "lookahead" if family == order[0] else "shorter"
