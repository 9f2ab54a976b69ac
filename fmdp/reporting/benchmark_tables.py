"""The tables of a benchmark: one line for each estimate as CSV, and the means beside published numbers in Markdown."""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from fmdp.benchmark.measure import CHORD, LOOKAHEAD, NOISY
from fmdp.benchmark.pictures import PictureFile
from fmdp.benchmark.published import PICTURES, PUBLISHED, published_psnr
from fmdp.benchmark.records import Record
from fmdp.benchmark.rivals import RIVALS
from fmdp.benchmark.summary import MEASURES, Means, Result, SetResult
from fmdp.io.files import atomic_write
from fmdp.reporting.markdown import table_row, table_rule

TITLES = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS", "dists": "DISTS"}
ARROWS = {"psnr": "↑", "ssim": "↑", "lpips_alex": "↓", "dists": "↓"}
DECIMALS = {"psnr": 2, "ssim": 4, "lpips_alex": 4, "dists": 4}
CONVENTIONS = """\
Noise is Gaussian of a known sigma, added to whole pictures and not clipped. Each picture has noise of its own, which
depends on the seed and its name alone. PSNR is that of the clipped estimate, not rounded, averaged over the pictures.
SSIM takes the clipped estimate. LPIPS (version 0.1, AlexNet) and DISTS take the estimate as an eight-bit file gives it
back; DISTS at the size of the picture, where its paper shrinks pictures to 256 pixels. ± is the standard error of the
mean over the pictures. All methods have the same pictures and the same noise, so differences between methods are more
certain than that. `benchmark.json` has their standard errors (`change`), and all standard deviations.

The flow map's r is its lookahead: r = 0 is t = s, the estimate of least error; r = 1 is t = 1, whose distribution is
that of photographs if the network is exact. The chord blends the pictures of these two ends, (1 - r) of the first and r
of the second."""
CHORD_ENDS = ((CHORD, 0), (CHORD, 1))  # those of the lookahead


def write_csv(path: pathlib.Path, records: Mapping[PictureFile, Record]) -> None:
    """Write one line for each picture, noise level, method and lookahead; what was not measured is empty."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["set", "picture", "sigma", "method", "lookahead", *MEASURES])
        writer.writeheader()
        for picture, record in records.items():
            for row in record.rows:
                of = {"set": picture.dataset, "picture": picture.name, "sigma": row.sigma, "method": row.method}
                writer.writerow(of | {"lookahead": row.lookahead} | row.measures)


def write_markdown(path: pathlib.Path, results: Sequence[SetResult], facts: Mapping[str, Any], every: int) -> None:
    """Write the tables in Markdown.

    Args:
      results: of `benchmark.summary.summarise`.
      facts: as in benchmark.json: `prior`, `rivals`, `made`, and `missing`, lines about what did not run.
      every: which pictures were measured in full, one in so many.
    """
    prior = facts["prior"]
    name = f"{prior.get('name', prior['checkpoint'])} (SHA-256 of its weights {prior['sha256'][:16]})"
    lines = ["# Denoising benchmark", "", f"Prior: {name}. Command:", "", f"    {facts['made']['command']}", ""]
    lines += [*_overview(results), *CONVENTIONS.splitlines(), ""]
    lines += [f"- {method_title(rival)}: {how}." for rival, how in facts["rivals"].items()]
    lines += [f"- {line}." for line in facts["missing"]] + [""]
    for of in results:
        lines += [f"## {of.name}", "", *_about(of, every), ""]
        for sigma in dict.fromkeys(result.sigma for result in of.results):
            lines += [f"### {of.name}, sigma {sigma:g} of 255", "", *_table(of, sigma), ""]
    if any(of.name.lower() in PICTURES for of in results):
        sources = "; ".join(f"{name}: {method.source}" for name, method in PUBLISHED.items())
        lines += [f"Published numbers: {sources}. They are over whole sets, of estimates rounded to eight bits, which"]
        lines += ["lowers PSNR by about .01 dB at 33 dB."]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n")


def method_title(method: str) -> str:
    """The name of a method in tables and figures."""
    names = {LOOKAHEAD: "flow map", CHORD: "chord", NOISY: "noisy picture"}
    return names.get(method) or RIVALS[method].title


def _overview(results: Sequence[SetResult]) -> list[str]:
    """PSNR over all pictures, at both ends of the lookahead, beside the published numbers."""
    sigmas = list(dict.fromkeys(result.sigma for of in results for result in of.results))
    levels = "/".join(f"{sigma:g}" for sigma in sigmas)
    header = [f"PSNR ↑ at sigma {levels}", *(f"{of.name} ({_count(of.pictures)})" for of in results)]
    lines = ["## PSNR over all pictures", "", table_row(header), table_rule(header)]
    for name, r in (("flow map, t = s", 0.0), ("flow map, t = 1", 1.0)):
        lines.append(table_row([name, *(_joined(of, sigmas, r) for of in results)]))
    for name in PUBLISHED:
        cells = [[published_psnr(of.name, sigma).get(name) for sigma in sigmas] for of in results]
        if any(value is not None for cell in cells for value in cell):
            lines.append(table_row([f"{name}, published", *(_slashes(cell) for cell in cells)]))
    whole = [(of, PICTURES.get(of.name.lower(), of.pictures)) for of in results]
    partial = [f"{of.pictures} of {count} pictures of {of.name}" for of, count in whole if of.pictures != count]
    warning = f"The published numbers are over whole sets, so they do not compare with {', '.join(partial)}."
    return [*lines, "", *([warning, ""] if partial else [])]


def _joined(of: SetResult, sigmas: Sequence[float], r: float) -> str:
    ends = {x.sigma: x.every for x in of.results if (x.method, x.lookahead) == (LOOKAHEAD, r)}
    return _slashes([means.measures["psnr"] if (means := ends.get(sigma)) else None for sigma in sigmas])


def _slashes(values: Sequence[float | None]) -> str:
    return " / ".join("–" if value is None else f"{value:.2f}" for value in values)


def _about(of: SetResult, every: int) -> list[str]:
    """What was measured of a set, and what is special about some of its pictures."""
    lines = [f"{_count(of.pictures)}. {_in_full(of, every)}"]
    by_note: dict[str, list[str]] = {}
    for name, notes in of.notes.items():
        for note in notes:
            by_note.setdefault(note, []).append(name)
    lines += [
        f"{_count(len(names))} ({names[0]}{', ...' * (len(names) > 1)}): {note}." for note, names in by_note.items()
    ]
    lines += [f"Left out: {name} ({why})." for name, why in of.left_out.items()]
    return lines


def _in_full(of: SetResult, every: int) -> str:
    if of.in_full == of.pictures:
        return "Everything is measured on all of them."
    which = f"one picture in {every} ({_count(of.in_full)})"
    return f"PSNR of both ends of the lookahead is over all of them, everything else over {which}."


def _table(of: SetResult, sigma: float) -> list[str]:
    rows = [x for x in of.results if x.sigma == sigma and (x.method, x.lookahead) not in CHORD_ENDS]
    measures = [name for name in MEASURES if any(row.full and name in row.full.measures for row in rows)]
    partly = of.in_full < of.pictures
    header = [f"sigma {sigma:g}", *([f"PSNR ↑, all {of.pictures}"] if partly else [])]
    header += [f"{TITLES[name]} {ARROWS[name]}" + (f", {of.in_full}" if partly else "") for name in measures]
    lines = [table_row(header), table_rule(header)]
    for row in rows:
        cells = [_cell(row.every, "psnr")] if partly else []
        lines.append(table_row([_title(row), *cells, *(_cell(row.full, name) for name in measures)]))
    for name, value in published_psnr(of.name, sigma).items():
        lines.append(table_row([f"{name}, published", f"{value:.2f}", *[""] * (len(header) - 2)]))
    return lines


def _title(row: Result) -> str:
    ends = {0.0: " (t = s)", 1.0: " (t = 1)"} if row.method == LOOKAHEAD else {}
    name = method_title(row.method)
    return name if row.lookahead is None else f"{name}, r = {row.lookahead:g}{ends.get(row.lookahead, '')}"


def _cell(means: Means | None, name: str) -> str:
    if means is None or name not in means.measures:
        return ""
    decimals = DECIMALS[name]
    value = f"{means.measures[name]:.{decimals}f}"
    error = means.measures.get(f"{name}_sem")
    return value if error is None else f"{value} ± {error:.{decimals}f}"


def _count(pictures: int) -> str:
    return f"{pictures} picture{'s' * (pictures != 1)}"
