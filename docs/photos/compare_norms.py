"""Networks with different norms compared on crops, whole pictures and tiles; docs/photos/README.md has the table.

python docs/photos/compare_norms.py --runs=FOLDER --pictures=FOLDER

The runs are folders that `docs/training/compare_recipes.py` left, of fully convolutional networks. The middle square of
each test picture is denoised in three ways: in crops of the training size that only meet, as the network saw them in
training; as a whole; and in tiles of the training size with margins of a quarter, whose outer half is thrown away. The
noise is the same for all. The table has the PSNR in dB at t = s and t = 1. The rows of the first run, which has group
norm if there is one, hold the mean over the pictures and its standard error. The rows of another run hold the mean and,
in brackets, its difference from the first run with the standard error of that difference, picture by picture.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

import fmdp
from fmdp.benchmark.measure import LOOKAHEAD, Plan, measure_picture
from fmdp.benchmark.pictures import draw_noise, find_pictures, read_clean
from fmdp.errors import InputError
from fmdp.flow.tiling import Tiling, crop
from fmdp.networks.norms import NORMS
from fmdp.pretrained.prior import Prior

SIGMAS = (15.0, 25.0, 50.0)  # of 255
CROPS, WHOLE, TILES = "crops", "whole", "tiles"

Scores = Mapping[str, np.ndarray]
"""By the way in which pictures are denoised: PSNR [pictures, 2 SIGMAS], at t = s and then at t = 1."""


def read_squares(folder: str, count: int, side: int) -> dict[str, np.ndarray]:
    """The middle squares [side, side, 3] in [-1, 1] of pictures that lie evenly in a folder, by name."""
    found = find_pictures(folder)
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]
    squares = {}
    for picture in chosen:
        clean, _ = read_clean(picture.path, 3)
        if min(clean.shape[:2]) < side:
            raise InputError(f"{picture.path} has {clean.shape[0]}x{clean.shape[1]} pixels: give --side of at most that")
        squares[picture.name] = crop(clean, (side, side, 3))
    return squares


def ways(prior: Prior, side: int) -> dict[str, tuple[Prior, int]]:
    """The prior and its tiles, pixels a side, for each way to denoise a square of this side."""
    size = prior.image_shape[0]

    def with_margin(margin: int) -> Prior:
        return dataclasses.replace(prior, tiling=Tiling(size, margin))

    return {CROPS: (with_margin(0), size), WHOLE: (prior, side), TILES: (with_margin(size // 4), size)}


def score(prior: Prior, squares: Mapping[str, np.ndarray], sigmas: Sequence[float] = SIGMAS) -> Scores:
    """The PSNR of every square in every way."""
    side = len(next(iter(squares.values())))
    if prior.stride is None or side % prior.image_shape[0]:
        remedy = f"give --side as a multiple of {prior.image_shape[0]}, and runs of networks without attention"
        raise InputError(f"squares of {side} pixels cannot be cut into crops of {prior.image_shape[0]}: {remedy}")
    scores = {}
    for way, (tiled, tile) in ways(prior, side).items():
        request = fmdp.Request(lookaheads=(0.0, 1.0), tile=tile)
        plan = Plan(prior=tiled, sigmas=sigmas, request=request)
        rows = []
        for name, clean in squares.items():
            measured = measure_picture(plan, clean, draw_noise(0, name, clean.shape), in_full=False).rows
            found = {(row.lookahead, row.sigma): row.measures["psnr"] for row in measured if row.method == LOOKAHEAD}
            rows.append([found[r, sigma] for r in (0.0, 1.0) for sigma in sigmas])
        scores[way] = np.array(rows)
    return scores


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the first axis, and its standard error."""
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def table(runs: Mapping[str, Scores], sigmas: Sequence[float] = SIGMAS) -> str:
    """The scores of runs in Markdown; differences are from the first."""
    columns = [f"t = {t}, {sigma:g}" for t in ("s", "1") for sigma in sigmas]
    lines = [f"| run | pictures | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    baseline = next(iter(runs.values()))
    for name, scores in runs.items():
        for way, values in scores.items():
            mean, error = mean_and_error(values)
            cells = [f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True)]
            if scores is not baseline:
                change = zip(mean, *mean_and_error(values - baseline[way]), strict=True)
                cells = [f"{m:.2f} ({d:+.2f} ± {e:.2f})" for m, d, e in change]
            lines.append(f"| {name} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def find_runs(folder: pathlib.Path) -> dict[str, Prior]:
    """The finished runs in a folder, by their name, norm and number of steps, in the order of `NORMS`."""
    found = {}
    for path in sorted(folder.glob("*/summary.json")):
        prior = fmdp.load(path.parent)
        steps = json.loads(path.read_text())["train"]["steps"]
        found[f"{path.parent.name} (norm={prior.network.norm}, {steps} steps)"] = prior
    if not found:
        raise InputError(f"--runs={folder} holds no finished run: name the --out folder of compare_recipes.py")
    return dict(sorted(found.items(), key=lambda item: NORMS.index(item[1].network.norm)))


def main() -> None:
    """Measure and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, type=pathlib.Path, help="folder of runs")
    parser.add_argument("--pictures", required=True, help="folder of test pictures")
    parser.add_argument("--count", type=int, default=8, help="of pictures, at least 2")
    parser.add_argument("--side", type=int, default=256, help="of their middle squares, in pixels")
    args = parser.parse_args()
    try:
        squares = read_squares(args.pictures, args.count, args.side)
        runs = find_runs(args.runs)
        scores = {name: score(prior, squares) for name, prior in runs.items()}
    except InputError as error:
        parser.error(str(error))
    print(table(scores))


if __name__ == "__main__":
    main()
