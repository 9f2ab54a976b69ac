"""Comparison of baselines with plug-and-play's curve at equal distortion and at equal perception."""

import numpy as np

from fmdp.evaluation.results import Match, Measures, Number, SolverRun

MATCHED = ("mse", "kernel_distance")
_PAIRS = (MATCHED, MATCHED[::-1])


def match_baselines(rows: list[SolverRun]) -> list[Match]:
    """Each baseline against plug-and-play's curve over the lookahead, at equal distortion and at equal perception.

    Distortion is the MSE, perception the kernel distance; both are means over the seeds. Runs without a kernel
    distance, which a few images do not have, are not compared. `ahead` is

    - "pnp" where in every seed the curve passes below or left of the baseline,
    - the baseline's name where in every seed the curve passes above it,
    - "even" where the seeds differ,
    - "apart" where the baseline lies beyond an end of the curve: better in one measure than all of the curve, and
      worse in the other.
    """
    found = []
    for task in dict.fromkeys(row.task for row in rows):
        fine = [row for row in rows if row.task == task and row.measures.keys() >= {*MATCHED}]
        most = max((row.steps or 0 for row in fine if row.solver == "pnp"), default=0)
        curve = [row for row in fine if row.solver == "pnp" and row.knob != "chord" and row.steps == most]
        found += [match_baseline(row, curve) for row in fine if row.solver != "pnp" and curve]
    return found


def match_baseline(row: SolverRun, curve: list[SolverRun]) -> Match:
    """One baseline against the runs of plug-and-play on the same task."""
    seeds = [[run.seeds[k] for run in curve if run.seeds] for k in range(len(row.seeds or []))]
    verdicts = {_ahead(seed, points, row.solver) for seed, points in zip(row.seeds or [], seeds, strict=True)}
    points = [run.measures for run in curve]
    return Match(
        task=row.task,
        solver=row.solver,
        mse=row.measures["mse"],
        psnr=row.measures["psnr"],
        kernel_distance=row.measures["kernel_distance"],
        nfe=row.nfe or 0,
        pnp_kernel_distance_at_equal_mse=_at(row.measures, points, *MATCHED),
        pnp_mse_at_equal_kernel_distance=_at(row.measures, points, *MATCHED[::-1]),
        ahead=verdicts.pop() if len(verdicts) == 1 else "even",
    )


def _at(point: Measures, curve: list[Measures], name: str, other: str) -> float | None:
    """The least `other` that the curve attains at no more than the point's `name`; None if `name` is never so small.

    The curve is piecewise linear through those of its points that no other point beats in both measures.
    """
    best: list[tuple[Number, Number]] = []
    for x, y in sorted((row[name], row[other]) for row in curve):
        if not best or y < best[-1][1]:
            best.append((x, y))
    if point[name] < best[0][0]:
        return None
    xs, ys = np.array(best).T
    return float(np.interp(point[name], xs, ys))


def _ahead(point: Measures, curve: list[Measures], solver: str) -> str:
    """Who is ahead in one seed: see `match_baselines`."""
    values = [(_at(point, curve, name, other), point[other]) for name, other in _PAIRS]
    if any(ours is not None and ours <= theirs for ours, theirs in values):
        return "pnp"
    if all(ours is None for ours, _ in values):  # better than all of the curve in both
        return solver
    inside = any(
        ours is not None and point[name] <= max(row[name] for row in curve)
        for (ours, _), (name, _) in zip(values, _PAIRS, strict=True)
    )
    return solver if inside else "apart"
