"""What a run has to show: the planes, pictures and numbers of each of its noise levels and tasks.

Everything comes from the run's summary.json and its pictures.npz, so that pages can be made again at any time.
"""

import math
import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmdp.data.containers import to_uint8
from fmdp.errors import InputError
from fmdp.evaluation.denoising import Sweep
from fmdp.evaluation.solver_comparison import ComparedImages
from fmdp.io.archives import load_npz
from fmdp.io.files import atomic_write
from fmdp.reporting.curves import NAMES, PERCEPTION, SYMLOG_SPAN, set_symlog

Pictures = dict[str, np.ndarray]
"""By name: uint8, "denoise/<level>/<clean|noisy|restored>" and "inverse/<task>/...", levels and tasks by number.

clean and measured are [n, H, W] or [n, H, W, 3]; restored are [k, n, ...], in the order of the rows in summary.json.
"""

LOGARITHMIC = ("kernel_distance", "kid")
LEGEND = NAMES | {
    "lookahead": "lookahead (the slider)",
    "chord": "chord: the two ends mixed",
    "blend": "estimate and posterior sample mixed",
}
OMITTED = ("_std", "seeds", "reference")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of the plane, joined in this order. `low` and `high` bound y where it is not known exactly."""

    name: str
    style: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One plane: its curves, the first of which the slider moves along, and its perception measure.

    `band` is what real images come to against real ones (low, high); `log` are the axes that are logarithmic, of
    which y is linear up to the width `linear`.
    """

    measure: str
    label: str
    curves: list[Curve]
    band: tuple[float, float] | None = None
    log: str = ""
    linear: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One noise level or one task: its planes, where the slider can stand, its pictures and its tables of rows.

    `parameters` are those of the task, where they are known.
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


def denoising_pictures(clean: np.ndarray, sweeps: list[Sweep], images: int) -> Pictures:
    """The pictures of a sweep over noise levels: at most so many images, under every setting of the lookahead."""
    found: Pictures = {}
    if clean.shape[-1] not in (1, 3):  # points of the plane are not pictures
        return found
    for level, swept in enumerate(sweeps):
        shown = np.linspace(0, len(swept.kept) - 1, min(images, len(swept.kept))).astype(int)
        kept = swept.kept[shown]
        found[f"denoise/{level}/clean"] = to_uint8(clean[kept])
        found[f"denoise/{level}/noisy"] = to_uint8(swept.noisy[0, kept])
        found[f"denoise/{level}/restored"] = to_uint8(swept.knobs["lookahead"].restored[:, 0, shown])
    return found


def inverse_pictures(pictures: dict[str, ComparedImages]) -> Pictures:
    """The pictures of a comparison of solvers: one image of each task, restored by every run that did not fail."""
    found: Pictures = {}
    for task, picture in enumerate(pictures.values()):
        found[f"inverse/{task}/clean"] = to_uint8(picture.clean[None])
        found[f"inverse/{task}/noisy"] = to_uint8(picture.measured[None])
        if picture.restored:
            found[f"inverse/{task}/restored"] = to_uint8(np.stack(list(picture.restored.values()))[:, None])
    return found


def save_pictures(path: pathlib.Path, pictures: Pictures) -> None:
    """Write pictures into a compressed npz, whole or not at all."""
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **pictures)  # type: ignore[arg-type]


def load_pictures(path: pathlib.Path, group: str) -> Pictures:
    """The pictures of one group (denoise or inverse), none where there are none or they cannot be read."""
    try:
        return load_npz(path, lambda name: name.startswith(f"{group}/"))
    except InputError:
        return {}


def build_panels(summary: dict[str, Any], pictures: Pictures) -> list[Panel]:
    """The views of a run, noise levels first, then tasks."""
    return _levels(summary, pictures) + _tasks(summary, pictures)


def set_scales(axis, plane: Plane) -> None:
    """Make those of a matplotlib axis logarithmic, on which the plane is drawn, that need it."""
    x = np.concatenate([curve.x for curve in plane.curves])
    if "x" in plane.log and np.nanmax(x) > SYMLOG_SPAN * np.nanmin(x) > 0:
        axis.set_xscale("log")
    if "y" in plane.log:
        set_symlog(axis, plane.linear)


def _levels(summary: dict[str, Any], pictures: Pictures) -> list[Panel]:
    curves, floor = summary.get("denoise", []), summary.get("floor", {})
    truth = summary.get("truth", [])
    found = []
    for index, level in enumerate(dict.fromkeys(curve["noise_level"] for curve in curves)):
        chosen = [curve for curve in curves if curve["noise_level"] == level]
        chosen.sort(key=lambda curve: curve["knob"] != "lookahead")
        points = chosen[0]["points"]
        rows = [{"knob": curve["knob"]} | point for curve in chosen for point in curve["points"]]
        planes = [_denoise_plane(chosen, name, floor[name]) for name in PERCEPTION if name in floor]
        tables = {"Every setting of every knob": rows}
        if index < len(truth):
            planes.insert(0, _truth_plane(truth[index]))
            tables["Against the truth: exact field, optimal frontier"] = [
                {"field": curve["field"], "knob": curve["knob"]} | point
                for curve in truth[index]["curves"]
                for point in curve["points"]
            ]
        found.append(
            Panel(
                group="Denoising",
                name=f"noise level {level:g}",
                planes=planes,
                positions=_times([point["t"] for point in points]),
                clean=pictures.get(f"denoise/{index}/clean"),
                measured=pictures.get(f"denoise/{index}/noisy"),
                restored=pictures.get(f"denoise/{index}/restored"),
                tables=tables,
            )
        )
    return found


def _times(times: list[float]) -> list[str]:
    """The lookaheads by name, with as many decimals as tell them apart."""
    for decimals in range(2, 7):
        names = [f"t = {t:.{decimals}f}" for t in times]
        if len(set(names)) == len(set(times)):
            break
    return names


def _denoise_plane(curves: list[dict[str, Any]], measure: str, floor: dict[str, float]) -> Plane:
    drawn = [
        _curve(LEGEND[curve["knob"]], curve["knob"], curve["points"], measure)
        for curve in curves
        if measure in curve["points"][0]
    ]
    return Plane(
        measure=measure,
        label=PERCEPTION[measure],
        curves=drawn,
        band=_band(floor),
        log="y" if measure in LOGARITHMIC else "",
        linear=_width({measure: floor}, measure),
    )


def _band(floor: dict[str, float]) -> tuple[float, float] | None:
    """What real images come to against real ones, None where they are too few to tell."""
    low, high = floor["low"], floor["high"]
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _width(floors: dict[str, dict[str, float]], measure: str) -> float:
    """How far from zero a measure is by chance, which no logarithm should stretch."""
    return max(abs(floors[measure][end]) for end in ("low", "high")) if measure in floors else 0.0


def _curve(name: str, style: str, points: list[dict[str, Any]], measure: str) -> Curve:
    x, y = (np.array([point[key] for point in points], float) for key in ("mse", measure))
    return Curve(name=name, style=style, x=x, y=y)


def _truth_plane(level: dict[str, Any]) -> Plane:
    """The plane in which the optimum is known; its measure is W2 per root pixel."""
    curves = []
    for curve in level["curves"]:
        x = np.array([point["mse"] for point in curve["points"]])
        low, high = np.sqrt([[point["squared_w2"][end] or 0.0 for point in curve["points"]] for end in ("low", "high")])
        style = f"exact-{curve['knob']}" if curve["field"] == "exact" else curve["knob"]
        name = f"exact {curve['knob']}" if curve["field"] == "exact" else LEGEND[curve["knob"]]
        curves.append(Curve(name=name, style=style, x=x, y=(low + high) / 2, low=low, high=high))
    curves.sort(key=lambda curve: curve.style != "lookahead")
    x, high, y = (np.array([row[key] for row in level["frontier"]]) for key in ("mse", "mse_high", "perception"))
    name = "optimal frontier: nothing lies left of it"
    curves.append(Curve(name=name, style="frontier", x=(x + high) / 2, y=y))
    return Plane(measure="w2", label="Wasserstein distance W2 to the true distribution, per root pixel", curves=curves)


def _tasks(summary: dict[str, Any], pictures: Pictures) -> list[Panel]:
    rows, floor = summary.get("inverse", []), summary.get("inverse_floor", {})
    given = summary.get("inverse_made", {}).get("config", {}).get("inverse", {}).get("tasks", {})
    found = []
    for index, task in enumerate(dict.fromkeys(row["task"] for row in rows)):
        mine = [row for row in rows if row["task"] == task]
        fine = [row for row in mine if "failed" not in row]
        families: dict[tuple, list[int]] = {}
        for place, row in enumerate(fine):
            families.setdefault((row["solver"], row["knob"], row["steps"]), []).append(place)
        # First the one that the slider moves along: the lookahead, with the most steps.
        order = sorted(families, key=lambda key: (key[0] != "pnp", key[1] == "chord", -key[2]))
        planes = [
            Plane(
                measure=measure,
                label=PERCEPTION[measure],
                curves=[
                    _curve(_family(key), _family_style(key, order), [fine[k] for k in families[key]], measure)
                    for key in order
                ],
                band=_band(floor[measure]) if measure in floor else None,
                log="xy" if measure in LOGARITHMIC else "x",
                linear=_width(floor, measure),
            )
            for measure in PERCEPTION
            if fine and measure in fine[0]
        ]
        slid = families[order[0]] if order and order[0][0] == "pnp" else []
        restored = pictures.get(f"inverse/{index}/restored")
        if restored is not None and len(restored) != len(fine):
            restored = None  # pictures of another comparison
        whole = restored is not None
        found.append(
            Panel(
                group="Inverse problems",
                name=str(task).replace("_", " "),
                parameters=given.get(task, {}),
                planes=planes if slid else [],
                positions=[f"lookahead {fine[k]['t_or_lookahead']:g}" for k in slid],
                clean=pictures.get(f"inverse/{index}/clean") if whole else None,
                measured=pictures.get(f"inverse/{index}/noisy") if whole else None,
                restored=None if restored is None else restored[slid],
                others={}
                if restored is None
                else {_family(key): restored[families[key][0]] for key in order if key[0] != "pnp"},
                tables={"Every run of every solver": [{k: v for k, v in row.items() if k != "task"} for row in mine]},
            )
        )
    return found


def _family(key: tuple) -> str:
    solver, knob, steps = key
    if solver != "pnp":
        return solver.replace("_", " ")
    return f"flow map, {'chord' if knob == 'chord' else 'lookahead'}, {steps} steps"


def _family_style(key: tuple, order: list[tuple]) -> str:
    solver, knob, _ = key
    if solver != "pnp":
        return solver
    return "chord" if knob == "chord" else "lookahead" if key == order[0] else "shorter"
