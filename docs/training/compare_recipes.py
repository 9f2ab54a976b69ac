"""Recipes of training compared at equal seconds; docs/training.md has the tables.

python docs/training/compare_recipes.py --config=configs/digits.py --out=runs/recipes --steps=2280 --jobs=2

First the training steps of all recipes are timed in turn, in processes of their own. Each recipe then trains for as
many steps as fit into the seconds of the baseline's, each in a run of its own (`python -m fmdp.main`). A run that has
ended is not repeated. The table has one row per recipe: means over the seeds. Recipes change the loss of the baseline,
so that the table does not depend on the loss that the configuration has. Further --config.key=value flags go to every
run.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

import fmdp
from fmdp import data
from fmdp.bench.lowering import measure_program, training_step
from fmdp.bench.workload import Workload, image_form, median_seconds
from fmdp.cli.flags import load_config
from fmdp.flow.average_field import sample
from fmdp.metrics.perception import kernel_distance, median_distance

Recipe = Mapping[str, Any]

PLAIN: Recipe = {"loss.diagonal_share": 0.5, "loss.times": "uniform", "loss.huber": 0.0}
RECIPES: dict[str, Recipe] = {
    "MeanFlow": {"loss.off_diagonal": "meanflow"},
    "LSD": {"loss.off_diagonal": "lagrangian"},
    "improved MeanFlow": {"loss.off_diagonal": "improved_meanflow"},
    "share .25": {"loss.diagonal_share": 0.25},
    "share .75": {"loss.diagonal_share": 0.75},
    "learned weight": {"loss.weighting": "learned"},
    "power .5": {"loss.power": 0.5},
    "power 1": {"loss.power": 1.0},
    "pseudo-Huber": {"loss.huber": 0.1},
    "logit-normal times": {"loss.times": "logit_normal"},
    "late times": {"loss.times": "late"},
    "difference": {"loss.difference": 0.01},
    "teacher .999": {"loss.teacher_decay": 0.999},
    "small intervals first": {"loss.interval_steps": 1000},
    "diagonal first": {"loss.phases": ((0.5, 1.0), (0.5, 0.25))},
    "dropout": {"network.dropout": 0.1},
    "pixel norm": {"network.norm": "pixel"},
    "no norm": {"network.norm": "none"},
    "best of three averages": {"ema.more_half_lives": (100_000.0, 1_600_000.0), "train.validation_images": 100},
    "late + Huber": {"loss.times": "late", "loss.huber": 0.1},
    "late + share .75": {"loss.times": "late", "loss.diagonal_share": 0.75},
    "late + Huber + share .75": {"loss.times": "late", "loss.huber": 0.1, "loss.diagonal_share": 0.75},
    "late + diagonal first": {"loss.times": "late", "loss.phases": ((0.5, 1.0), (0.5, 0.25))},
    "logit-normal + share .75": {"loss.times": "logit_normal", "loss.diagonal_share": 0.75},
    "improved + share .75": {"loss.off_diagonal": "improved_meanflow", "loss.diagonal_share": 0.75},
    "improved + late + share .75": {
        "loss.off_diagonal": "improved_meanflow",
        "loss.times": "late",
        "loss.diagonal_share": 0.75,
    },
    "improved + logit-normal + share .75": {
        "loss.off_diagonal": "improved_meanflow",
        "loss.times": "logit_normal",
        "loss.diagonal_share": 0.75,
    },
}


def complete(name: str, baseline: str) -> Recipe:
    """A recipe with what it leaves to the baseline."""
    return PLAIN | RECIPES[baseline] | RECIPES[name]


def configured(path: str, recipe: Recipe, flags: Sequence[str] = ()) -> Any:
    """The configuration of a file with the values of a recipe and of flags."""
    config = load_config(path)
    given = (flag.removeprefix("--config.").split("=", 1) for flag in flags)
    config.update_from_flattened_dict(dict(recipe) | {key: literal(value) for key, value in given})
    return config


def literal(text: str) -> Any:
    """The value of a flag: JSON, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def step_cost(config: Any, rounds: int) -> dict[str, float]:
    """The median seconds and the lines of a training step; of phases, the mean over them."""
    shape, dtype = image_form(config)
    seconds, lines = 0.0, 0
    for part, share in config.loss.phases or ((1.0, config.loss.diagonal_share),):
        config.loss.update(phases=(), diagonal_share=share)
        workload = Workload(config.copy_and_resolve_references(), shape, config.train.batch_size, 1, dtype=dtype)
        seconds += part * median_seconds(rounds, step=workload.run(jax.devices()[:1]))["step"]
        lines = measure_program(training_step(workload, jax.devices()[:1]), compiles=False)["lines"]
    return {"seconds": seconds, "lines": lines}


def step_costs(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """`step_cost` of each recipe, the median of three processes of its own; the recipes are timed in turn.

    In one process, programs disturb each other: beside sixteen others, the step of LSD took half of its time alone.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(3):
        for name in names:
            command = [sys.executable, *sys.argv, "--time", name]
            found[name].append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    return {name: sorted(costs, key=lambda cost: cost["seconds"])[1] for name, costs in found.items()}


def train(path: str, recipe: Recipe, steps: int, seed: int, workdir: pathlib.Path, flags: Sequence[str]) -> None:
    """One run, unless it has ended before."""
    if (workdir / "summary.json").exists():
        return
    values = dict(recipe) | {"train.steps": steps, "seed": seed, "evaluate.points": 3, "evaluate.bootstrap": 2}
    values |= {"evaluate.baseline_images": 0}
    command = [sys.executable, "-m", "fmdp.main", f"--config={path}", f"--workdir={workdir}", *flags]
    with workdir.with_name(f"{workdir.name}.log").open("w") as log:
        command += [f"--config.{key}={value}" for key, value in values.items()]
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def measures(config: Any, workdir: pathlib.Path) -> dict[str, float]:
    """What the table says of a run, with the noise level behind the name."""
    summary = json.loads((workdir / "summary.json").read_text())
    row: dict[str, float] = {}
    for level in summary["denoise"]:
        alpha, first, last = f"{level['noise_level']:.1f}", level["points"][0], level["points"][-1]
        row[f"mse t=s {alpha}"], row[f"mse t=1 {alpha}"] = first["mse"], last["mse"]
        row[f"variance {alpha}"], row[f"mmd2 {alpha}"] = last["variance_ratio"], last["kernel_distance"]
    for level in summary.get("truth") or ():
        alpha, errors = f"{level['noise_level']:.1f}", level["field_error"]
        row[f"error t=s {alpha}"], row[f"error t=1 {alpha}"] = (errors[i]["relative"] ** 2 for i in (0, -1))
    with (workdir / "metrics.jsonl").open() as lines:
        norms = [x["gradient_norm"] for x in map(json.loads, lines) if "gradient_norm" in x]
    row["spikes"] = float(np.quantile(norms, 0.95) / np.median(norms))
    return row | sample_distances(config, workdir)


def sample_distances(config: Any, workdir: pathlib.Path) -> dict[str, float]:
    """MMD^2 between the held-out images and as many samples, made in one step and in four."""
    prior = fmdp.load(workdir)
    real = np.asarray(data.to_float(data.read_stored(data.load_split(config.data).test, slice(2000))))
    vectors = real.reshape(len(real), -1)
    width = median_distance(vectors)
    made = {
        steps: jax.jit(lambda key, steps=steps: sample(prior, key, real.shape, steps))(jax.random.key(5))
        for steps in (1, 4)
    }
    return {
        f"samples {steps}": float(kernel_distance(x.reshape(len(x), -1), vectors, width)) for steps, x in made.items()
    }


def main() -> None:
    """Time, train and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--baseline", default="MeanFlow", help="the recipe that the others change one thing of")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="names, separated by commas")
    parser.add_argument("--steps", type=int, required=True, help="of the baseline")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--rounds", type=int, default=40, help="timings of each step")
    parser.add_argument("--time", choices=list(RECIPES), help="time the steps of this recipe, and print the result")
    args, flags = parser.parse_known_args()
    if args.time:
        config = configured(args.config, complete(args.time, args.baseline), flags)
        print(json.dumps(step_cost(config, args.rounds)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys([args.baseline, *args.recipes.split(",")])
    recipes = {name: complete(name, args.baseline) for name in names}
    costs_file = args.out / "costs.json"
    if not costs_file.exists():
        costs_file.write_text(json.dumps(step_costs(list(recipes)), indent=1))
    costs = json.loads(costs_file.read_text())
    budget = args.steps * costs[args.baseline]["seconds"]

    def run(name: str, seed: int) -> dict[str, float]:
        workdir = args.out / f"{name.replace(' ', '_')}-{seed}"
        train(args.config, recipes[name], round(budget / costs[name]["seconds"]), seed, workdir, flags)
        row = measures(configured(args.config, recipes[name], flags), workdir)
        print(name, seed, json.dumps({key: round(x, 5) for key, x in row.items()}), flush=True)
        return row

    with ThreadPoolExecutor(args.jobs) as pool:
        found = {name: [pool.submit(run, name, seed) for seed in range(args.seeds)] for name in recipes}
    rows = {name: [one.result() for one in several] for name, several in found.items()}
    with (args.out / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        keys = list(next(iter(rows.values()))[0])
        table.writerow(["recipe", "time of a step", "lines", *keys])
        for name, several in rows.items():
            ratio = costs[name]["seconds"] / costs[args.baseline]["seconds"]
            means = (statistics.mean(row[key] for row in several) for key in keys)
            table.writerow([name, f"{ratio:.2f}", costs[name]["lines"], *(f"{x:.5f}" for x in means)])


if __name__ == "__main__":
    main()
