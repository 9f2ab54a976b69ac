import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import fmdp
from fmdp.config.defaults import default_config
from fmdp.config.tasks import PROTOCOLS, tasks_of_protocol
from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.evaluation import measures, solver_batches, solver_comparison, solver_plan, solver_records
from fmdp.evaluation.network_metrics import NetworkMetrics
from fmdp.evaluation.results import SolverResult, SolverRun
from fmdp.evaluation.solver_matching import MATCHED, match_baselines
from fmdp.evaluation.summary import Summary
from fmdp.exact import Gaussian
from fmdp.io.dataclass_json import from_json, to_json
from fmdp.metrics import perception
from fmdp.metrics.features import features
from fmdp.reporting import solvers as solver_figures
from fmdp.reporting.html_page import render_page
from fmdp.reporting.panels import build_panels

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
TARGET = Gaussian(np.zeros(SHAPE), 0.25)
FIELD = Partial(lambda scale, x, s, t: scale * TARGET.average_field(x, s, t), 1.0)
INPAINTING = {"operator": "random_inpainting", "ratio": 0.5, "sigma": 0.05}
CLIPPING = {"operator": "hdr", "scale": 2.0, "sigma": 0.05}


def split(train=40, test=12):
    images = [np.asarray(TARGET.sample(jax.random.key(seed), n)) for seed, n in ((1, train), (2, test))]
    return Split(*images, np.zeros(train, int), np.zeros(test, int), "", None)


def settings(**changes):
    c = default_config().inverse
    c.update(images=10, tuning_images=8, seeds=2, batch_size=6, steps=(4, 10), lookaheads=(0.0, 0.5, 1.0))
    c.update(changes)
    return c


@pytest.fixture(scope="module")
def table():
    tasks = {"inpainting": INPAINTING, "clipping": CLIPPING}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(solver_plan.GRIDS, "dps", {"eta": (1e30,)})
        patch.setitem(solver_plan.GRIDS, "pnp", {"gain": (1e30, 0.5, 1.0)})
        config = settings(solvers=("pnp", "dps", "flower"))
        result, pictures = solver_comparison.compare_solvers(FIELD, split(), tasks, config, KEY)
        return to_json(result), pictures


@pytest.mark.slow
def test_every_run_of_the_plan_has_its_row(table):
    rows, pictures = table[0]["inverse"], table[1]
    for task in ("inpainting", "clipping"):
        pnp = [(r["steps"], r["knob"], r["t_or_lookahead"]) for r in rows if (r["task"], r["solver"]) == (task, "pnp")]
        ends = (0.0, 0.5, 1.0)
        assert sorted(pnp) == sorted(
            [(4, "relative", r) for r in ends] + [(10, knob, r) for knob in ("relative", "chord") for r in ends]
        )
    for row in rows:
        if "failed" not in row:
            assert len(row["seeds"]) == 2
            assert row["mse"] == pytest.approx(np.mean([seed["mse"] for seed in row["seeds"]]), rel=1e-5)
            assert row["nfe"] == row["steps"] * (2 if row["knob"] == "chord" else 1)
            assert row["seconds_per_image"] > 0
    assert pictures["inpainting"].iterates[1.0].shape == (len(solver_comparison.ITERATES), *SHAPE)


@pytest.mark.slow
def test_a_failed_run_says_why_and_the_others_still_run(table):
    failed = {(r["task"], r["solver"]): r["failed"] for r in table[0]["inverse"] if "failed" in r}
    assert set(failed) == {("inpainting", "dps"), ("clipping", "dps"), ("clipping", "flower")}
    assert "inpainting: dps failed at every setting" in failed["inpainting", "dps"]
    assert "clipping: dps diverged" in failed["clipping", "dps"]
    chosen = {(r["task"], r["solver"], r["steps"]): r["options"] for r in table[0]["tuned"]}
    assert chosen["inpainting", "dps", 10] is None
    assert chosen["inpainting", "pnp", 10]["gain"] in (0.5, 1.0)


@pytest.mark.slow
def test_both_knobs_meet_at_their_ends(table):
    rows = {
        (r["knob"], r["t_or_lookahead"]): r
        for r in table[0]["inverse"]
        if (r["task"], r["solver"]) == ("inpainting", "pnp") and r["steps"] == 10
    }
    for end in (0.0, 1.0):
        assert rows["chord", end]["mse"] == pytest.approx(rows["relative", end]["mse"], rel=1e-4)


@pytest.mark.slow
def test_the_floor_is_that_of_as_many_real_images(table):
    data, key = split(), jax.random.fold_in(KEY, 2)
    width = perception.median_distance(features(jnp.asarray(measures.reference_images(data)[0])))
    few = data._replace(test=data.test[:10], test_labels=data.test_labels[:10])
    assert table[0]["inverse_floor"] == to_json(measures.null_intervals(few, width, solver_comparison.DEALS, key))
    assert table[0]["inverse_floor"] != to_json(measures.null_intervals(data, width, solver_comparison.DEALS, key))


@pytest.mark.slow
def test_strips_show_the_curve_of_most_steps_and_every_baseline(table):
    images = table[1]["inpainting"]
    shown = [title for _, title in solver_figures._strip(images)]
    assert shown == ["clean", "measured", *(f"flow map\n{r}" for r in ("t = s", "lookahead 0.5", "t = 1")), "flower"]
    assert [run.steps for run, _ in images.restored if run.solver == "pnp"] == [4] * 3 + [10] * 6
    wanted = [image for run, image in images.restored if run.steps == 10 and run.knob in ("relative", "")]
    for (tile, _), image in zip(solver_figures._strip(images)[2:], wanted, strict=True):
        np.testing.assert_array_equal(tile, image)


@pytest.mark.slow
def test_the_image_with_most_detail_is_shown():
    clean = split().test[:10]
    wanted = int(np.argmax([np.square(np.diff(image[..., 0], axis=1)).sum() for image in clean]))
    assert wanted > 0
    config = settings(solvers=("pnp",), steps=(4,), tuning_images=0, chord=False, lookaheads=(0.0,))
    _, pictures = solver_comparison.compare_solvers(FIELD, split(), {"a": CLIPPING}, config, KEY)
    images = pictures["a"]
    np.testing.assert_array_equal(images.clean, clean[wanted])
    for restored in (images.iterates[0.0][-1], *(image for _, image in images.restored)):
        assert np.square(clean - restored).sum((1, 2, 3)).argmin() == wanted
    assert solver_comparison.most_detailed(jnp.zeros((3, 4, 1, 1))) == 0


@pytest.mark.slow
def test_files_of_the_comparison(table, tmp_path):
    summary, pictures = table
    result = from_json(SolverResult, summary, "result")
    solver_figures.write_table(tmp_path / "inverse.csv", result.inverse)
    with (tmp_path / "inverse.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(summary["inverse"])
    assert float(rows[0]["psnr"]) == summary["inverse"][0]["psnr"]
    assert [row["failed"] for row in rows] == [row.get("failed", "") for row in summary["inverse"]]
    solver_figures.write_markdown(tmp_path / "inverse.md", result.inverse, 10, 2)
    lines = (tmp_path / "inverse.md").read_text().splitlines()
    assert lines.count("| method | evaluations | PSNR, dB | from t = s | SSIM |") == 2
    assert sum(line.startswith("|") for line in lines) == len(rows) + 4
    best = next(row for row in result.inverse if (row.steps, row.t_or_lookahead, row.knob) == (10, 1.0, "relative"))
    assert best.change is not None
    wanted = f"| {best.measures['psnr_clipped']:.2f} | {best.change['psnr_clipped']:+.2f} ± "
    assert any(line.startswith(f"| flow map, t = 1 | 10 {wanted}") for line in lines)
    assert any(line.startswith("| dps | failed: inpainting: dps failed at every setting") for line in lines)
    solver_figures.draw_planes(tmp_path / "plane.png", result, 10, 2)
    solver_figures.draw_strips(tmp_path / "strips.png", pictures)
    solver_figures.draw_iterates(tmp_path / "iterates.png", pictures)
    figures = {"plane.png", "strips.png", "iterates.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"inverse.csv", "inverse.md", *figures}


@pytest.mark.slow
def test_changes_are_those_of_the_same_images_from_t_equal_s(table):
    rows = [row for row in table[0]["inverse"] if row["task"] == "inpainting" and "failed" not in row]
    (base,) = (row for row in rows if (row["steps"], row["knob"], row["t_or_lookahead"]) == (10, "relative", 0.0))
    assert set(base["change"].values()) == {0.0}
    for row in rows:
        assert row["change"]["mse"] == pytest.approx(row["mse"] - base["mse"], abs=1e-6)
    rows = [
        SolverRun(task="a", solver="pnp", knob="relative", t_or_lookahead=r, steps=9, measures={"mse": 0.0})
        for r in (0.0, 1.0)
    ]
    images = [{"psnr": np.array([[20.0, 30.0], [22.0, 28.0]])}, {"psnr": np.array([[19.0, 30.0], [20.0, 28.0]])}]
    _, changed = solver_comparison._with_changes(rows, images, "relative")
    assert changed.change == pytest.approx({"psnr": -0.75, "psnr_sem": 0.75})  # of the images, -1.5 and 0
    assert solver_comparison._with_changes(rows[1:], images[1:], "relative") == rows[1:]


@pytest.mark.slow
def test_few_images_are_compared_by_lpips_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(NetworkMetrics, "per_image", lambda self, x, clean: {"lpips_alex": abs(x).mean((-3, -2, -1))})
    config = settings(solvers=("pnp", "flower"), steps=(2,), tuning_images=0, chord=False)
    result, _ = solver_comparison.compare_solvers(FIELD, split(), {"a": INPAINTING}, config, KEY)
    assert result.matched == []
    for row in result.inverse:
        assert {"mse", "psnr_clipped", "ssim", "lpips_alex_draw_std"} <= row.measures.keys()
        assert not {"kernel_distance", "kernel_distance_draw_std", "variance_ratio"} & row.measures.keys()
        assert (row.change or {}).keys() >= {"lpips_alex", "lpips_alex_sem"}
    solver_figures.draw_planes(tmp_path / "plane.png", result, 10, 2)
    solver_figures.write_markdown(tmp_path / "inverse.md", result.inverse, 10, 2)
    assert "| LPIPS | from t = s |" in (tmp_path / "inverse.md").read_text()
    summary = Summary(config="x", inverse=result.inverse, inverse_floor=result.inverse_floor)
    (panel,) = build_panels(summary, {})
    assert [plane.measure for plane in panel.planes] == ["lpips_alex"]
    assert "LPIPS (AlexNet)" in render_page(summary, {})


def test_the_safe_schedule_is_that_of_both_plug_and_play_solvers():
    config = settings(solvers=("pnp", "pnp_flow", "flower"), steps=(10,), schedule="safe")
    plan = solver_plan.tune_solvers(FIELD, jnp.zeros((0, *SHAPE)), "", INPAINTING, config, KEY)
    for run in solver_plan.plan_runs(INPAINTING, config, plan):
        assert run.options.get("schedule") == (None if run.solver == "flower" else "safe")


def test_options_tuned_with_another_schedule_or_other_draws_are_tuned_anew(tmp_path, monkeypatch):
    tuned = []
    monkeypatch.setattr(
        solver_plan, "tune_options", lambda *given: tuned.append(given[4]) or {"gain": float(len(tuned))}
    )
    images, records = jnp.asarray(split().train[:8]), solver_records.SolverRecords(tmp_path / "parts")
    for changes, count in (({}, 1), ({}, 1), ({"schedule": "safe"}, 2), ({"pnp_flow_draws": 1, "steps": (2,)}, 3)):
        config = settings(solvers=("pnp_flow",), **({"steps": (10,)} | changes))
        solver_plan.tune_solvers(FIELD, images, "", INPAINTING, config, KEY, records)
        assert len(tuned) == count


def test_all_solvers_have_the_same_evaluations():
    for draws, steps in ((5, 20), (1, 100)):
        config = settings(solvers=("pnp_flow",), steps=(100,), pnp_flow_draws=draws, chord=False)
        assert solver_plan.budgets("pnp_flow", INPAINTING, config) == (steps,)
        plan = solver_plan.tune_solvers(FIELD, jnp.zeros((0, *SHAPE)), "", INPAINTING, config, KEY)
        (run,) = solver_plan.plan_runs(INPAINTING, config, plan)
        assert run.options["steps"] * run.options["noise_draws"] == 100


def test_tuning_takes_the_best_psnr(monkeypatch):
    images = jnp.asarray(split().train[:8])
    monkeypatch.setitem(solver_plan.GRIDS, "pnp", {"gain": (1e-6, 1.0)})
    assert solver_plan.tune_options(FIELD, images, "", INPAINTING, "pnp", 10, settings(), KEY) == {"gain": 1.0}
    monkeypatch.setitem(solver_plan.GRIDS, "pnp", {"gain": (1.0, 1e-6)})
    assert solver_plan.tune_options(FIELD, images, "", INPAINTING, "pnp", 10, settings(), KEY) == {"gain": 1.0}


def test_published_options_are_those_of_the_papers(monkeypatch):
    published = {
        "pnp": {"gain": 1.0, "exponent": 0.05},
        "pnp_flow": {"gain": 0.5, "exponent": 0.5},
        "ot_ode": {"start": 0.2},
        "dps": {"eta": 100.0},
        "flow_priors": {"lam": 1e5, "eta": 0.01},
        "d_flow": {"lam": 0.01},
        "flower": {"spread": 0.0},
    }
    found = {solver: solver_plan.published_options(solver, "jpeg", 100) for solver in solver_plan.GRIDS}
    assert found == published
    assert solver_plan.published_options("pnp_flow", "motion_blur", 100) == {"gain": 0.5, "exponent": 0.01}
    assert solver_plan.published_options("pnp_flow", "jpeg", 100, "safe") == {"gain": 1.0, "exponent": 0.5}
    published |= {"dps": {"eta": 10.0}, "pnp_flow": {"gain": 0.5, "exponent": 0.01}}  # of ten steps, of this operator
    monkeypatch.setattr(solver_plan, "tune_options", None)
    config = settings(solvers=tuple(published), steps=(10,))
    plan = solver_plan.tune_solvers(FIELD, jnp.zeros((0, *SHAPE)), "", INPAINTING, config, KEY)
    assert {solver: options for (solver, _), options in plan.items()} == published


@pytest.mark.parametrize("chord", [True, False])
def test_the_chord_is_left_out_on_request(chord):
    config = settings(solvers=("pnp", "dps"), chord=chord)
    plan = {("pnp", 4): {}, ("pnp", 10): {}, ("dps", 10): {}}
    runs = solver_plan.plan_runs(INPAINTING, config, plan)
    assert [run.steps for run in runs if run.knob == "chord"] == [10] * 3 * chord
    assert len([run for run in runs if run.knob == "relative"]) == 6


class StoppedError(Exception):
    """What ends a comparison in a test."""


def test_solvers_are_tuned_on_images_of_every_class(monkeypatch):
    def tune(field, images, *rest):
        assert set(np.asarray(images).ravel()) == {0.0, 0.25, 0.5}
        raise StoppedError

    monkeypatch.setattr(solver_comparison, "tune_solvers", tune)
    labels = np.repeat([0, 1, 2], 20)
    by_class = np.broadcast_to(labels[:, None, None, None] / np.float32(4), (60, *SHAPE))
    data = split()._replace(train=by_class, train_labels=labels)
    with pytest.raises(StoppedError):
        solver_comparison.compare_solvers(FIELD, data, {"a": INPAINTING}, settings(), KEY)


def test_solvers_draw_nothing_that_is_in_their_measurements(monkeypatch):
    def draws(key, n):
        return np.asarray(jax.vmap(lambda key: jax.random.normal(key, SHAPE))(jax.random.split(key, n)))

    def solve(field, observed, key, *rest):
        starts.append(draws(key, len(observed.y)))  # and, in plug-and-play, the noise of each step
        starts.append(draws(jax.random.split(key, len(observed.y))[0], 2))
        raise StoppedError

    starts: list[np.ndarray] = []
    monkeypatch.setattr(solver_comparison, "solve_batch", solve)
    clean, config, task = jnp.asarray(split().test[:4]), settings(), {"operator": "denoising", "sigma": 0.1}
    observed = solver_batches.draw_observations(task, "", clean, KEY)
    run = solver_plan.Run("pnp", "relative", 0.0, 10, {"steps": 10})
    with pytest.raises(StoppedError):
        solver_comparison._restore(FIELD, [observed], "", run, 4, [KEY])
    with pytest.raises(StoppedError):
        solver_comparison._iterates(FIELD, observed, 0, task, config, {("pnp", 10): {}}, KEY)
    noise = np.asarray(observed.y - clean) / 0.1
    for start in np.concatenate(starts):
        assert np.abs(start - noise).max((1, 2, 3)).min() > 0.1


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_where_it_was(tmp_path, monkeypatch):
    config = settings(
        solvers=("pnp", "flower"), steps=(2,), lookaheads=(0.0, 1.0), tuning_images=0, chord=False, seeds=1
    )
    tasks = {"inpainting": INPAINTING, "clipping": CLIPPING}
    run_solver, done = solver_comparison._run_solver, []

    def counted(field, observations, name, run, *rest):
        if len(done) == 2:
            raise StoppedError
        done.append((name, run.solver, run.setting))
        return run_solver(field, observations, name, run, *rest)

    def compare(key=KEY):
        return solver_comparison.compare_solvers(FIELD, split(), tasks, config, key, folder=tmp_path / "parts")

    monkeypatch.setattr(solver_comparison, "_run_solver", counted)
    with pytest.raises(StoppedError):
        compare()
    before, done = done, []
    monkeypatch.setattr(solver_comparison, "_run_solver", counted)
    with pytest.raises(StoppedError):
        compare(jax.random.key(1))  # other noise: nothing is taken over
    assert done == before
    monkeypatch.setattr(solver_comparison, "_run_solver", lambda *given: done.append(given[2:4]) or run_solver(*given))
    done = []
    resumed, pictures = compare()
    assert [(name, run.solver) for name, run in done] == [
        ("inpainting", "flower"), ("clipping", "pnp"), ("clipping", "pnp"), ("clipping", "flower")
    ]  # fmt: skip
    done = []
    again, shown = compare()
    assert done == []
    whole, whole_pictures = solver_comparison.compare_solvers(FIELD, split(), tasks, config, KEY)
    assert to_json(again) == to_json(resumed)
    for kept, fresh in zip(again.inverse, whole.inverse, strict=True):
        assert kept.measures == fresh.measures
        assert (kept.failed, kept.seeds, kept.nfe) == (fresh.failed, fresh.seeds, fresh.nfe)
    for task, images in whole_pictures.items():
        for (run, image), (_, mine), (same_run, other) in zip(
            images.restored, pictures[task].restored, shown[task].restored, strict=True
        ):
            assert run == same_run
            np.testing.assert_array_equal(mine, image)
            np.testing.assert_array_equal(other, image)
        assert images.iterates.keys() == shown[task].iterates.keys()
        for end, iterates in images.iterates.items():
            np.testing.assert_array_equal(shown[task].iterates[end], iterates)


def test_a_part_is_found_again_only_with_the_same_facts_and_undamaged(tmp_path):
    made = []

    def part():
        made.append(1)
        return {"psnr": float("inf"), "n": len(made)}, {"x": np.arange(3.0)}

    records = solver_records.SolverRecords(tmp_path / "parts", {"seed": 1})
    assert records.recall(["a", 1], part)[0]["n"] == 1
    plain, arrays = solver_records.SolverRecords(tmp_path / "parts", {"seed": 1}).recall(["a", 1], part)
    assert plain == {"psnr": float("inf"), "n": 1}
    np.testing.assert_array_equal(arrays["x"], np.arange(3.0))
    assert records.recall(["a", 2], part)[0]["n"] == 2
    assert records.within("task").recall(["a", 1], part)[0]["n"] == 3
    assert solver_records.SolverRecords(tmp_path / "parts", {"seed": 2}).recall(["a", 1], part)[0]["n"] == 4
    assert len(list((tmp_path / "parts").iterdir())) == 4
    for file in (tmp_path / "parts").iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    assert records.recall(["a", 1], part)[0]["n"] == 5
    assert solver_records.NO_RECORDS.recall(["a", 1], part)[0]["n"] == 6


def test_only_parts_are_removed(tmp_path):
    solver_records.NO_RECORDS.clear()
    records = solver_records.SolverRecords(tmp_path / "parts")
    records.clear()  # of a folder that is not there
    records.recall("a", lambda: (1, {}))
    (tmp_path / "parts" / "mine.npz").touch()
    records.clear()
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine.npz"]
    (tmp_path / "parts" / "mine.npz").unlink()
    records.recall("a", lambda: (1, {}))
    records.clear()
    assert not (tmp_path / "parts").exists()


def test_a_part_of_another_network_with_the_same_weights_is_another():
    prior = fmdp.load("fashion_mnist")
    others = [dataclasses.replace(prior, network=prior.network.clone(**option)) for option in ({"norm": "pixel"}, {})]
    images = jnp.zeros((2, 28, 28, 1))
    reference = solver_comparison.Reference(images, np.asarray(images), jnp.ones(()), NetworkMetrics(weights={}))
    facts = [solver_comparison._facts(field, reference, images, settings(), KEY) for field in (prior, *others)]
    assert facts[0] != facts[1]
    assert facts[0] == facts[2]
    json.dumps(facts)


@pytest.mark.slow
def test_batches_do_not_change_a_restoration_nor_settings_compile_anew():
    observations = solver_batches.draw_observations(INPAINTING, "", jnp.asarray(split().test[:10]), KEY)
    options = {"steps": 3, "knob": "relative", "lookahead": 0.2, "gain": 0.5}
    whole, info = solver_batches.solve_batch(FIELD, observations, KEY, "pnp", options, 100)
    compiled = solver_batches._solve._cache_size()
    parts, ragged = solver_batches.solve_batch(FIELD, observations, KEY, "pnp", options, 4)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(ragged.residual, info.residual, atol=1e-6)
    assert solver_batches._solve._cache_size() == compiled + 1
    other, _ = solver_batches.solve_batch(
        FIELD, observations, KEY, "pnp", options | {"lookahead": 0.9, "gain": 0.25}, 4
    )
    assert solver_batches._solve._cache_size() == compiled + 1
    assert abs(other - parts).max() > 0.01
    whole_number, _ = solver_batches.solve_batch(FIELD, observations, KEY, "pnp", options | {"gain": 1}, 4)
    same, _ = solver_batches.solve_batch(FIELD, observations, KEY, "pnp", options | {"gain": 1.0}, 4)
    assert solver_batches._solve._cache_size() == compiled + 1
    np.testing.assert_array_equal(whole_number, same)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"operator": "box_inpaiting", "sigma": 0.1, "size": 2}, "task broken: unknown operator 'box_inpaiting'"),
        ({"operator": "denoising"}, "task broken: name its operator, and one of sigma, peak and laplace"),
        ({"operator": "denoising", "sigma": 0.1, "peak": 3.0}, "one of sigma, peak and laplace"),
        ({"operator": "denoising", "sigma": -0.1}, "task broken: GaussianNoise: sigma=-0.1"),
        ({"operator": "box_inpainting", "sigma": 0.1, "sizes": 2}, "unknown parameter 'sizes', did you mean 'size'"),
        ({"operator": "super_resolution", "sigma": 0.1, "factor": 3}, "pad to 6x6"),
        ({"operator": "colorization", "sigma": 0.1}, "needs 3 channels"),
    ],
)
def test_a_task_that_cannot_be_set_up_is_refused_before_any_other_runs(task, message):
    with pytest.raises(InputError) as refused:
        solver_comparison.compare_solvers(FIELD, split(), {"fine": INPAINTING, "broken": task}, settings(), KEY)
    assert message in str(refused.value)


def curve(*points):
    return [
        {"task": "a", "solver": "pnp", "knob": "relative", "t_or_lookahead": 0.0, "steps": 9, "nfe": 9.0, "psnr": 0.0}
        | dict(zip(MATCHED, point, strict=True))
        | {"seeds": [dict(zip(MATCHED, point, strict=True))]}
        for point in points
    ]


def match(rows):
    """The one baseline in these rows against the curve in them."""
    (found,) = match_baselines(from_json(list[SolverRun], rows, "rows"))
    return to_json(found)


@pytest.mark.parametrize(
    ("point", "at_equal_mse", "at_equal_kernel_distance", "ahead"),
    [
        ((2.0, 0.7), 0.5, 1.6, "pnp"),
        ((2.0, 0.4), 0.5, 2.2, "b"),
        ((0.9, 0.9), None, 1.2, "b"),
        ((0.9, 1.5), None, 1.0, "apart"),
        ((4.0, -0.1), 0.0, None, "apart"),
        ((4.0, 0.1), 0.0, 2.8, "pnp"),
        ((0.5, -1.0), None, None, "b"),
    ],
)
def test_who_is_ahead_of_the_curve(point, at_equal_mse, at_equal_kernel_distance, ahead):
    baseline = {**curve(point)[0], "solver": "b", "knob": ""}
    rows = [*curve((1.0, 1.0), (3.0, 0.0), (3.5, 0.5)), baseline]
    found = match(rows)
    assert found["pnp_kernel_distance_at_equal_mse"] == pytest.approx(at_equal_mse)
    assert found["pnp_mse_at_equal_kernel_distance"] == pytest.approx(at_equal_kernel_distance)
    assert found["ahead"] == ahead


def test_seeds_that_differ_leave_it_even():
    rows = [*curve((1.0, 1.0), (3.0, 0.0)), {**curve((2.0, 0.45))[0], "solver": "b", "knob": ""}]
    rows[-1]["seeds"] = [{"mse": 2.0, "kernel_distance": 0.3}, {"mse": 2.0, "kernel_distance": 0.6}]
    for row in rows[:-1]:
        row["seeds"] *= 2
    found = match(rows)
    assert found["ahead"] == "even"


@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3)])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_task_of_a_protocol_can_be_set_up(name, shape):
    image = jnp.zeros((1, *shape))
    for task, options in tasks_of_protocol(name, shape).items():
        y = jax.eval_shape(
            lambda key, task=task, options=options: solver_batches.draw_observations(options, task, image, key).y,
            KEY,
        )
        assert y.shape[0] == 1
    assert ("colorization" in tasks_of_protocol("fmd", shape)) == (shape[-1] == 3)
