import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from fmdp.reporting import curves
from tests.support.forked import Ended, run_forked

ROOT = pathlib.Path(__file__).parents[2]


def command(*arguments, cwd=ROOT):
    """A started `python -m fmdp.main`, so that several can run side by side."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "fmdp.main", *arguments],
        cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The workdir of a finished smoke run, and what it printed."""
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    started = command("--config=configs/digits.py:smoke", f"--workdir={workdir}", "--config.train.steps=12")
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err[-2000:]
    return workdir, out


@pytest.mark.slow
def test_smoke_run_leaves_every_result(smoke):
    workdir, out = smoke
    assert out.splitlines()[-2:] == [
        f"open {workdir / 'report.html'} in a browser and move the slider",
        f"results in {workdir}",
    ]
    for name in (
        "config.json",
        "metrics.jsonl",
        "dp_curve.csv",
        "summary.json",
        "dp_plane.png",
        "denoise.png",
        "knob.gif",
    ):
        assert (workdir / name).stat().st_size > 0
    assert list(workdir.glob("events.out.tfevents*"))
    assert (workdir / "report.html").read_text().count("<table>") == 3
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["train"]["steps"] == 12
    assert {(curve["noise_level"], curve["knob"]) for curve in summary["denoise"]} == {
        (level, knob) for level in (0.3, 0.5, 0.7) for knob in curves.STYLE
    }
    for curve in summary["denoise"]:
        first, last = curve["points"][0], curve["points"][-1]
        if curve["knob"] in ("lookahead", "chord"):
            assert len(curve["points"]) >= 9
            assert (first["setting"], last["setting"]) == (0, 1)
        if curve["knob"] == "lookahead":
            assert first["t"] == pytest.approx(curve["s"])
            assert last["t"] == pytest.approx(1.0)
        assert {"mse", "mse_std", "psnr", "ssim", "variance_ratio", "kernel_distance"} <= set(first)
    by_knob = {curve["knob"]: curve["points"] for curve in summary["denoise"] if curve["noise_level"] == 0.5}
    for end in (0, -1):
        assert by_knob["lookahead"][end]["mse"] == pytest.approx(by_knob["chord"][end]["mse"], rel=1e-5)
    with (workdir / "dp_curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(curve["points"]) for curve in summary["denoise"])
    assert float(rows[0]["mse"]) == summary["denoise"][0]["points"][0]["mse"]
    assert not [path for path in workdir.iterdir() if path.name.startswith(".")]
    assert 0 < summary["seconds"]["compile"] < summary["seconds"]["total"]


@pytest.mark.slow
def test_a_second_evaluation_gives_the_same_numbers(smoke):
    workdir, first = smoke
    assert "already trained" not in first
    before = json.loads((workdir / "summary.json").read_text())
    arguments = "--config=configs/digits.py:smoke", f"--workdir={workdir}", "--config.train.steps=12"
    again = command(*arguments, "--mode=evaluate")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err[-2000:]
    after = json.loads((workdir / "summary.json").read_text())
    assert after["made"]["command"].endswith("--mode=evaluate")
    assert after["made"]["command"] in (workdir / "report.html").read_text()
    assert after["train"] == before["train"]
    assert after["denoise"] == before["denoise"]


@pytest.mark.slow
def test_solvers_are_compared_on_the_trained_field_which_is_not_trained_again(smoke):
    workdir, _ = smoke
    before = json.loads((workdir / "summary.json").read_text())
    arguments = "--config=configs/digits.py:smoke", f"--workdir={workdir}", "--config.train.steps=12"
    started = command(*arguments, "--mode=inverse")
    _, err = started.communicate(timeout=300)
    assert started.returncode == 0, err[-2000:]
    after = json.loads((workdir / "summary.json").read_text())
    assert {key: after[key] for key in before if key != "seconds"} == {k: before[k] for k in before if k != "seconds"}
    assert {row["solver"] for row in after["inverse"]} == {"pnp", "flower"}
    assert {"psnr", "psnr_std", "ssim", "kernel_distance", "data_residual", "nfe"} <= set(after["inverse"][0])
    assert after["matched"][0]["ahead"] in ("pnp", "flower", "even", "apart")
    for name in ("inverse.csv", "inverse.md", "inverse_plane.png", "inverse_strips.png", "inverse_iterates.png"):
        assert (workdir / name).stat().st_size > 0
    assert (workdir / "report.html").read_text().count("<table>") == 4
    with np.load(workdir / "pictures.npz") as pictures:
        assert {name.split("/")[0] for name in pictures} == {"denoise", "inverse"}
    again = command(*arguments, "--mode=train")
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "already trained for 12 steps" in out
    assert json.loads((workdir / "summary.json").read_text())["inverse"] == after["inverse"]


@pytest.mark.slow
def test_bad_input_ends_in_one_line_and_exit_code_2(tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    digits, work = "--config=configs/digits.py:smoke", f"--workdir={tmp_path / 'new'}"
    (tmp_path / "odd.py").write_text(
        "import ml_collections\nget_config = lambda: ml_collections.ConfigDict({'name': 'a'})"
    )
    cases = {
        "no such config": (["--config=configs/digitz.py", work], "configs/digitz.py"),
        "no config": ([work], "--config is missing"),
        "config of another form": (
            [f"--config={tmp_path / 'odd.py'}", work],
            "begin with fmdp.config.defaults.default_config()",
        ),
        "unknown variant": (["--config=configs/digits.py:smok", work], "'smok'"),
        "unknown key": ([digits, work, "--config.train.step=5"], "unknown key 'step', did you mean 'steps'?"),
        "wrong type": ([digits, work, "--config.train.steps=many"], "many"),
        "unknown flag": ([digits, work, "--workdi=x"], "workdi"),
        "unknown mode": ([digits, work, "--mode=trane"], "trane"),
        "workdir is a file": ([digits, f"--workdir={file}"], "is not a folder"),
        "no steps": ([digits, work, "--config.train.steps=0"], "config.train.steps = 0"),
        "no batch": ([digits, work, "--config.train.batch_size=0"], "config.train.batch_size = 0"),
        "unknown loss": ([digits, work, "--config.loss.off_diagonal=lagrange"], "lagrange"),
        "unknown source": ([digits, work, "--config.data.source=digitz"], "digitz"),
        "empty source": ([digits, work, "--config.data.test_share=0.0001"], "and 0 to test on"),
        "nothing to evaluate": ([digits, work, "--mode=evaluate"], "no checkpoint"),
        "nothing to restore with": ([digits, work, "--mode=inverse"], "no checkpoint"),
        "unknown protocol": ([digits, work, "--config.inverse.protocol=fmb"], "config.inverse.protocol = 'fmb'"),
        "no tasks": (["--config=configs/gaussian.py:smoke", work, "--mode=inverse"], "config.inverse names no tasks"),
    }
    denoising = ["--config=configs/photos.py:smoke", work, "--mode=benchmark"]
    cases |= {
        "no test pictures": (denoising, "config.benchmark.folders = ''"),
        "too much noise": ([*denoising, "--config.benchmark.sigmas=500"], "config.benchmark.sigmas = (500,)"),
        "a flag of restoring": ([*denoising, "--sweep"], "--sweep does not go with --mode=benchmark"),
        "several processes": ([*denoising, "--distributed=auto"], "--mode=benchmark runs in one process"),
    }
    (tmp_path / "taken" / "lock").mkdir(parents=True)
    taken = [digits, f"--workdir={tmp_path / 'taken'}"]
    cases["folder for a file"] = (taken, f"{tmp_path}/taken/lock: Is a directory: see what is there")
    real = {name: command(*cases[name][0]) for name in ("unknown key", "nothing to evaluate")}
    ended = run_forked({name: arguments for name, (arguments, _) in cases.items() if name not in real})
    for name, process in real.items():
        out, err = process.communicate(timeout=120)
        ended[name] = Ended(process.returncode, out, err)
    assert ended.keys() == cases.keys()
    for name, (code, out, err) in ended.items():
        assert code == 2, (name, err[-2000:])
        assert out == "", (name, out)
        assert len(err.splitlines()) == 1, (name, err)
        assert err.startswith("fmdp: "), (name, err)
        assert cases[name][1] in err, (name, err)
    assert file.read_text() == "kept"
    assert not list(tmp_path.rglob("*.json"))
