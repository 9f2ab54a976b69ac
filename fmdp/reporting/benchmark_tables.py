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
from fmdp.benchmark.summary import MEASURES, Result, SetResult
from fmdp.evaluation.results import Number
from fmdp.io.files import atomic_write
from fmdp.reporting.markdown import signed, table_row, table_rule

TITLES = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS", "dists": "DISTS"}
ARROWS = {"psnr": "↑", "ssim": "↑", "lpips_alex": "↓", "dists": "↓"}
CHANGES = ("psnr", "lpips_alex", "dists")  # of which the differences from t = s are shown
DECIMALS = {"psnr": 2, "ssim": 4, "lpips_alex": 4, "dists": 4}
CONVENTIONS = """\
Noise is Gaussian of a known sigma, added to whole pictures and not clipped. Each picture has one draw of it, which
depends on the seed, its name and its size alone, and all methods are given the same. All measures take the estimate
clipped to [0, 255], so the PSNR of the noisy picture is higher than 20 log10(255 / sigma). The PSNR of a picture is
over all pixels and channels; that of a set is the mean over its pictures. SSIM is the mean over pixels and channels,
with a Gaussian window of 11x11 and width 1.5. LPIPS (version 0.1, AlexNet) and DISTS take the estimate as an eight-bit
file gives it back, DISTS at the size of the picture, where its paper shrinks pictures to 256 pixels.

Δ is the mean difference from the flow map at t = s on the same pictures, ± its standard error. Compare methods by Δ,
because the pictures differ much more from each other than the methods do.

The flow map's r is its lookahead: r = 0 is t = s, the estimate of least error; r = 1 is t = 1, whose distribution is
that of photographs if the network is exact. The chord blends the pictures of these two ends, (1 - r) of the first and r
of the second, so it takes two evaluations where the flow map takes one. LPIPS and DISTS compare an estimate with the
clean picture. They do not measure whether estimates are distributed as photographs are, so the r at which they are best
need not be 1."""
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


def write_markdown(path: pathlib.Path, results: Sequence[SetResult], facts: Mapping[str, Any]) -> None:
    """Write the tables in Markdown.

    Args:
      results: of `benchmark.summary.summarise`.
      facts: as in benchmark.json: `prior`, `settings`, `rivals`, `made`, `backends`, and `missing`, lines about what
        did not run.
    """
    prior, settings = facts["prior"], facts["settings"]
    name = f"{prior.get('name', prior['checkpoint'])} (SHA-256 of its weights {prior['sha256'][:16]})"
    tile = "in tiles of {}x{} pixels with margins of {}".format(*settings["tile"][:2], settings["tile"][-1])
    run_with = f"{tile}; products in {settings['precision']} precision on {' and '.join(facts['backends'])}"
    lines = [
        "# Denoising benchmark",
        "",
        f"Prior: {name}, {run_with}. Seed of the noise: {settings['seed']}. Command:",
        "",
    ]
    lines += [f"    {facts['made']['command']}", "", *_overview(results), *CONVENTIONS.splitlines(), ""]
    lines += [f"- {method_title(rival)}: {how}." for rival, how in facts["rivals"].items()]
    lines += [f"- {line}." for line in facts["missing"]] + [""]
    for of in results:
        lines += [f"## {of.name}", "", *_about(of), ""]
        for sigma in dict.fromkeys(result.sigma for result in of.results):
            lines += [f"### {of.name}, sigma {sigma:g} of 255", "", *_table(of, sigma), ""]
    if any(of.name.lower() in PICTURES for of in results):
        papers = "; ".join(f"{name}: {method.source}" for name, method in PUBLISHED.items())
        lines += [f"Published methods: {papers}. Their numbers are as the papers of FFDNet, DRUNet and SwinIR tabulate"]
        lines += ["them, of estimates rounded to eight bits, which lowers PSNR by about .01 dB at 33 dB."]
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n")


def method_title(method: str) -> str:
    """The name of a method in tables and figures."""
    names = {LOOKAHEAD: "flow map", CHORD: "chord", NOISY: "noisy picture"}
    return names.get(method) or RIVALS[method].title


def setting_title(method: str, lookahead: Number | None) -> str:
    """The name of a method with its position, if it has one."""
    ends = {0.0: " (t = s)", 1.0: " (t = 1)"} if method == LOOKAHEAD else {}
    at = "" if lookahead is None else f", r = {lookahead:g}{ends.get(lookahead, '')}"
    return f"{method_title(method)}{at}"


def count_pictures(pictures: int) -> str:
    """So many pictures, in words."""
    return f"{pictures} picture{'s' * (pictures != 1)}"


def _overview(results: Sequence[SetResult]) -> list[str]:
    """PSNR over all pictures, at both ends of the lookahead, beside the published numbers."""
    sigmas = list(dict.fromkeys(result.sigma for of in results for result in of.results))
    levels = "/".join(f"{sigma:g}" for sigma in sigmas)
    header = [f"PSNR ↑ at sigma {levels}", *(f"{of.name} ({count_pictures(of.pictures)})" for of in results)]
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


def _about(of: SetResult) -> list[str]:
    """What was measured of a set, and what is special about some of its pictures."""
    lines = [f"{count_pictures(of.pictures)}. {_in_full(of)}", ""]
    by_note: dict[str, list[str]] = {}
    for name, notes in of.notes.items():
        for note in notes:
            by_note.setdefault(note, []).append(name)
    lines += [
        f"- {count_pictures(len(names))} ({names[0]}{', ...' * (len(names) > 1)}): {note}."
        for note, names in by_note.items()
    ]
    return [*lines, *(f"- Left out: {name} ({why})." for name, why in of.left_out.items())]


def _in_full(of: SetResult) -> str:
    if of.in_full == of.pictures:
        return "Everything is measured on all of them."
    if not of.in_full:
        return "PSNR of both ends of the lookahead alone is measured."
    offsets = [
        x.every.measures["psnr"] - x.full.measures["psnr"]
        for x in of.results
        if (x.method, x.lookahead) == (LOOKAHEAD, 0) and x.every and x.full
    ]
    over = f"The tables below cover {of.in_full} of them, the overview all. At t = s, the mean PSNR over all is"
    differences = " / ".join(f"{offset:+.2f}" for offset in offsets)
    return f"{over} {differences} dB relative to that over these {of.in_full}, by sigma."


def _table(of: SetResult, sigma: float) -> list[str]:
    rows = [x for x in of.results if x.sigma == sigma and x.full and (x.method, x.lookahead) not in CHORD_ENDS]
    if not rows:
        return ["Nothing was measured in full."]
    measures = [name for name in MEASURES if any(row.full and name in row.full.measures for row in rows)]
    header = [f"sigma {sigma:g}, {count_pictures(of.in_full)}"]
    for name in measures:
        header += [f"{TITLES[name]} {ARROWS[name]}", *(["Δ"] if name in CHANGES else [])]
    lines = [table_row(header), table_rule(header)]
    for row in rows:
        cells = [_title(row, of.in_full)]
        for name in measures:
            cells += [_mean(row, name), *([_change(row, name)] if name in CHANGES else [])]
        lines.append(table_row(cells))
    return lines


def _title(row: Result, in_full: int) -> str:
    fewer = f" ({count_pictures(row.full.pictures)})" if row.full and row.full.pictures < in_full else ""
    return f"{setting_title(row.method, row.lookahead)}{fewer}"


def _mean(row: Result, name: str) -> str:
    if row.full is None or name not in row.full.measures:
        return ""
    of = row.full.measures.get(f"{name}_pictures")
    return f"{row.full.measures[name]:.{DECIMALS[name]}f}" + (f" ({count_pictures(int(of))})" if of else "")


def _change(row: Result, name: str) -> str:
    if row.change is None or name not in row.change.measures or (row.method, row.lookahead) == (LOOKAHEAD, 0):
        return ""
    return signed(row.change.measures, name, DECIMALS[name])
