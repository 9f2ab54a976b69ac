"""--mode=benchmark: a prior denoises sets of test pictures, and is compared with other denoisers."""

import dataclasses
import hashlib
import itertools
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from fmdp import load
from fmdp.benchmark.measure import LOOKAHEAD, Plan, load_distances, measure_picture
from fmdp.benchmark.pictures import PictureFile, draw_noise, find_pictures, read_clean
from fmdp.benchmark.published import PUBLISHED
from fmdp.benchmark.records import Record, Records
from fmdp.benchmark.rivals import describe_rival, find_rivals
from fmdp.benchmark.summary import summarise
from fmdp.cli.provenance import provenance_of_run
from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError, ParameterError, printable
from fmdp.io.dataclass_json import to_json
from fmdp.io.files import write_json
from fmdp.io.run_dir import RunDir
from fmdp.io.weights import MODEL, digest_arrays
from fmdp.pretrained.prior import Prior
from fmdp.reporting.benchmark_figures import crop_estimates, draw_planes, draw_strips
from fmdp.reporting.benchmark_tables import write_csv, write_markdown
from fmdp.restoration.request import Request
from fmdp.restoration.tiles import choose_tiles

SHOWN = 3  # pictures of each set in its strips, the first of those that are measured in full
SCHEMA_VERSION = 1  # of benchmark.json


def run_benchmark(config: ConfigDict, run: RunDir, checkpoint: str | None) -> None:
    """Measure the test pictures that the configuration names, and leave the results in the folder of the run.

    Pictures that were measured before with the same settings are not measured again.

    Args:
      config: validated.
      run: the folder for the results.
      checkpoint: of the prior, as for `fmdp.load`; None for the network of the run in that folder.

    Raises:
      InputError: there are no pictures or no prior, or the folder holds results of other settings.
    """
    pictures = find_pictures(config.benchmark.folders, config.benchmark.max_pictures)
    if checkpoint is None and not any((run / name).is_file() for name in (MODEL, "config.json")):
        raise InputError(
            f"--checkpoint is missing, and {run.path} is no run: name a prior, such as --checkpoint=photos"
        )
    rivals, missing = find_rivals(config.benchmark.rivals)
    distances, unmeasured = load_distances(config.evaluate)
    missing += [unmeasured] if unmeasured else []
    prior = load(checkpoint or run.path)
    if prior.image_shape[-1] not in (1, 3):
        raise InputError(f"a prior of {prior.image_shape[-1]} channels cannot be measured on pictures: name another")
    plan = Plan(
        prior=prior,
        sigmas=[float(sigma) for sigma in config.benchmark.sigmas],
        request=Request(
            degraded=True,
            lookaheads=tuple(float(r) for r in config.benchmark.lookaheads),
            tile=config.benchmark.tile or None,
            memory_gb=config.benchmark.memory_gb or None,
        ),
        rivals=rivals,
        distances=distances,
    )
    with run.lock():
        settings = settings_of(config, plan, prior)
        records = Records.open(run / "benchmark", settings)
        for line in missing:
            print(line, flush=True)
        about = {"checkpoint": checkpoint or str(run.path), "sha256": _digest(prior)}
        about |= {key: prior.about[key] for key in ("name", "licence") if isinstance(prior.about.get(key), str)}
        measured, left_out = _measure_all(config, plan, pictures, records)
        facts = {"prior": about, "settings": settings, "missing": missing, "made": provenance_of_run(config)}
        facts |= {"rivals": {name: describe_rival(rival) for name, rival in rivals.items()}}
        _write_results(run, measured, left_out, records, facts)
    print(f"results in {run.path}: benchmark.md, benchmark.csv, benchmark.json and figures", flush=True)


def settings_of(config: ConfigDict, plan: Plan, prior: Prior) -> dict[str, Any]:
    """What the numbers of a picture depend on. The folders and the number of pictures are not part of it.

    Raises:
      InputError: the prior does not take tiles of this size, or one does not fit into the memory.
    """
    try:
        tiles = choose_tiles(prior, plan.request)
    except ParameterError as error:
        value = config.benchmark[error.parameter]
        raise InputError(f"config.benchmark.{error.parameter} = {value!r}: {error.remedy}") from error
    return {
        "prior": _digest(prior),
        "sigmas": plan.sigmas,
        "lookaheads": plan.request.lookaheads,
        "seed": config.benchmark.seed,
        "tile": [*tiles.shape, tiles.margin],
        "precision": config.precision,
        "rivals": {name: describe_rival(rival) for name, rival in plan.rivals.items()},
        "distances": {name: loaded.origin for name, loaded in plan.distances.items()},
    }


def _digest(prior: Prior) -> str:
    leaves = jax.tree_util.tree_flatten_with_path(prior.params)[0]
    return digest_arrays({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


def _measure_all(
    config: ConfigDict, plan: Plan, pictures: list[PictureFile], records: Records
) -> tuple[dict[PictureFile, Record], dict[PictureFile, str]]:
    """The record of each picture, and why others are left out; each is kept as soon as it is measured."""
    measured: dict[PictureFile, Record] = {}
    left_out: dict[PictureFile, str] = {}
    with tqdm(pictures, unit="picture") as bar:
        for picture in bar:
            in_full = picture.place % config.benchmark.perceptual_every == 0
            try:
                sha256 = hashlib.sha256(picture.path.read_bytes()).hexdigest()
                record = records.read(picture, sha256, in_full)
                if record is None:
                    clean, note = read_clean(picture.path, plan.prior.image_shape[-1])
            except (UnusableError, OSError) as error:
                left_out[picture] = str(error)
                bar.write(printable(f"{picture.path}: {error}: it is left out"))
                continue
            if record is None:
                record, crops = _measure_one(config, plan, picture, clean, sha256, in_full)
                record = dataclasses.replace(record, notes=[*[note] * bool(note), *record.notes])
                records.write(picture, record, crops)
                bar.write(printable(describe(picture, record)))
            measured[picture] = record
    if not measured:
        raise InputError(f"config.benchmark.folders = {config.benchmark.folders!r}: none of the pictures can be used")
    return measured, left_out


def _measure_one(
    config: ConfigDict, plan: Plan, picture: PictureFile, clean: np.ndarray, sha256: str, in_full: bool
) -> tuple[Record, dict[str, np.ndarray]]:
    """The record of a picture, and its crops where it is shown."""
    began = time.monotonic()
    noise = draw_noise(config.benchmark.seed, picture.name, clean.shape)
    rows, estimates, notes = measure_picture(plan, clean, noise, in_full)
    shown = in_full and picture.place < SHOWN * config.benchmark.perceptual_every
    record = Record(
        sha256=sha256,
        in_full=in_full,
        size=list(clean.shape[:2]),
        seconds=round(time.monotonic() - began, 2),
        backend=jax.default_backend(),
        rows=rows,
        notes=notes,
    )
    return record, crop_estimates(clean, estimates) if shown else {}


def describe(picture: PictureFile, record: Record) -> str:
    """What to say about a picture that was measured, in one line."""
    ends = {
        end: "/".join(
            f"{row.measures['psnr']:.2f}" for row in record.rows if (row.method, row.lookahead) == (LOOKAHEAD, r)
        )
        for end, r in (("t = s", 0), ("t = 1", 1))
    }
    psnr = ", ".join(f"{values} dB at {end}" for end, values in ends.items())
    notes = "".join(f"; {note}" for note in record.notes)
    return f"{picture.dataset}/{picture.name}: {psnr} ({record.seconds:.0f} s){notes}"


def _write_results(
    run: RunDir,
    measured: dict[PictureFile, Record],
    left_out: dict[PictureFile, str],
    records: Records,
    facts: dict[str, Any],
) -> None:
    """Write the tables and the figures of all pictures."""
    results = summarise(measured, left_out)
    write_csv(run / "benchmark.csv", measured)
    facts = facts | {"backends": sorted({record.backend for record in measured.values()})}
    more: dict[str, Any] = {"published": {name: method._asdict() for name, method in PUBLISHED.items()}}
    write_json(run / "benchmark.json", {"schema_version": SCHEMA_VERSION} | facts | more | {"sets": to_json(results)})
    write_markdown(run / "benchmark.md", results, facts)
    if not draw_planes(run / "benchmark.png", results):
        print("benchmark.png is not drawn: no learned distance was measured", flush=True)
    for of in results:
        crops = ((p, found) for p in measured if p.dataset == of.name and (found := records.crops(p)))
        strips = {p.name: (found, measured[p].rows) for p, found in itertools.islice(crops, SHOWN)}
        for sigma in dict.fromkeys(result.sigma for result in of.results) if strips else ():
            draw_strips(run / f"benchmark_{of.name}_{sigma:g}.png", of.name, sigma, strips)
