"""The means of a benchmark over the pictures of each set, with their spreads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fmdp.benchmark.measure import LOOKAHEAD, Made
from fmdp.benchmark.pictures import PictureFile
from fmdp.benchmark.records import Record
from fmdp.evaluation.results import Measures, Number

MEASURES = ("psnr", "ssim", "lpips_alex", "dists")


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means over `pictures` pictures, by the name of the measure.

    With two pictures or more, each has beside it the standard deviation over the pictures (`_std`, of one picture) and
    the standard error of the mean (`_sem`). A measure that some pictures lack says of how many it is (`_pictures`).
    """

    pictures: int
    measures: dict[str, Number]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One method at one noise level: over all pictures, and over those that were measured in full.

    `every` is None for methods that ran on the latter only, and `full` where there are none of them. `change` is the
    difference from t = s over these. It is taken picture by picture, so that differences between the pictures do not
    enlarge its standard error.
    """

    sigma: Number
    method: str
    lookahead: Number | None = None
    every: Means | None = None
    full: Means | None = None
    change: Means | None = None


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """The results on one set: its pictures, how many were measured in full, the median time of one, names left out."""

    name: str
    pictures: int
    in_full: int
    median_seconds: float
    results: list[Result]
    notes: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def summarise(records: Mapping[PictureFile, Record], left_out: Mapping[PictureFile, str]) -> list[SetResult]:
    """The results on each set, in the order of the pictures."""
    found = []
    for name in dict.fromkeys(picture.dataset for picture in records):
        own = {picture: record for picture, record in records.items() if picture.dataset == name}
        full = {picture: record for picture, record in own.items() if record.in_full}
        found.append(
            SetResult(
                name=name,
                pictures=len(own),
                in_full=len(full),
                median_seconds=float(np.median([record.seconds for record in own.values()])),
                results=_results(own, full),
                notes={picture.name: record.notes for picture, record in own.items() if record.notes},
                left_out={picture.name: why for picture, why in left_out.items() if picture.dataset == name},
            )
        )
    return found


def _results(every: Mapping[PictureFile, Record], full: Mapping[PictureFile, Record]) -> list[Result]:
    by_key, in_full = _by_key(every), _by_key(full)
    keys = list(dict.fromkeys([*in_full, *by_key]))  # the order of a picture measured in full
    keys.sort(key=lambda key: key[0])
    found = []
    for sigma, made in keys:
        rows, few = by_key[sigma, made], in_full.get((sigma, made), {})
        least_error = in_full.get((sigma, Made(LOOKAHEAD, 0)), {})
        changes = [_difference(few[picture], least_error[picture]) for picture in few if picture in least_error]
        found.append(
            Result(
                sigma=sigma,
                method=made.method,
                lookahead=made.lookahead,
                every=_means([{"psnr": row["psnr"]} for row in rows.values()]) if len(rows) == len(every) else None,
                full=_means(list(few.values())) if few else None,
                change=_means(changes) if changes else None,
            )
        )
    return found


def _difference(row: Measures, other: Measures) -> Measures:
    return {name: value - other[name] for name, value in row.items()}


def _by_key(records: Mapping[PictureFile, Record]) -> dict[tuple[Number, Made], dict[PictureFile, Measures]]:
    found: dict[tuple[Number, Made], dict[PictureFile, Measures]] = {}
    for picture, record in records.items():
        for row in record.rows:
            found.setdefault((row.sigma, Made(row.method, row.lookahead)), {})[picture] = row.measures
    return found


def _means(rows: Sequence[Measures]) -> Means:
    found: dict[str, Number] = {}
    for name in MEASURES:
        values = np.array([row[name] for row in rows if name in row])
        if not len(values):
            continue
        found[name] = float(values.mean())
        if len(values) > 1:
            found[f"{name}_std"] = float(values.std(ddof=1))
            found[f"{name}_sem"] = float(values.std(ddof=1) / np.sqrt(len(values)))
        if len(values) < len(rows):
            found[f"{name}_pictures"] = len(values)
    return Means(pictures=len(rows), measures=found)
