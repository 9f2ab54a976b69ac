"""Real processes, started as a user starts them; each is told by its environment which one it is."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.support.forked import Ended, run_forked

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--config=configs/digits.py:smoke", "--config.train.steps=20", "--config.train.log_every=1",
    "--config.loss.off_diagonal=semigroup", "--config.loss.diagonal_share=0.5", "--config.data.test_share=0.1",
    "--config.evaluate.noise_levels=(0.5,)", "--config.evaluate.points=3", "--config.evaluate.noise_draws=1",
    "--config.evaluate.batch_size=50", "--config.evaluate.baseline_images=30", "--config.evaluate.baseline_steps=2",
    "--config.evaluate.bootstrap=5", "--config.network.width=64",  # kernels as large as parallel.SMALL
    "--config.train.watch_every=20", "--config.train.watch_images=7",
)  # fmt: skip


def start(*command, **environment):
    environment = os.environ | environment
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def local(*arguments, processes=2, devices=2):
    return start("launch/local.py", f"--processes={processes}", f"--devices={devices}", "--", *arguments)


def one(*arguments, devices=1):
    return start("-m", "fmdp.main", *arguments, JAX_NUM_CPU_DEVICES=str(devices))


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def watched(workdir):
    """What the run measured on held-out images at its last step."""
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: x for name, x in last.items() if name.startswith("held_out/")}


def measured(workdir):
    """The numbers of an evaluation of restored images."""
    summary = json.loads((workdir / "summary.json").read_text())
    points = [point for curve in summary["denoise"] for point in curve["points"]]
    return [point[name] for point in points for name in ("mse", "ssim", "variance_ratio", "frechet_distance")] + [
        row[name] for row in summary["residuals"] for name in ("lagrangian", "eulerian", "semigroup")
    ]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The workdir of a run in one process on one device."""
    workdir = tmp_path_factory.mktemp("processes") / "one"
    finish(one(*TINY, f"--workdir={workdir}"))
    assert len(losses(workdir)) == 20
    assert len(watched(workdir)) == 8
    return workdir


def test_two_processes_or_four_devices_give_the_numbers_of_one(reference, tmp_path):
    started = {
        "four devices": one(*TINY, f"--workdir={tmp_path / 'four devices'}", devices=4),
        "two processes": local(*TINY, f"--workdir={tmp_path / 'two processes'}"),
    }
    for name, process in started.items():
        out = finish(process)
        assert out.count(f"results in {tmp_path / name}\n") == 1  # one of them speaks
        assert losses(tmp_path / name) == pytest.approx(losses(reference), rel=1e-5)
        assert measured(tmp_path / name) == pytest.approx(measured(reference), rel=1e-3)
        assert watched(tmp_path / name) == pytest.approx(watched(reference), rel=1e-3)
    found = {path.name for path in (tmp_path / "two processes").iterdir()}
    assert {name.partition(".out.")[0] for name in found} == {
        path.name.partition(".out.")[0] for path in reference.iterdir()
    }
    assert json.loads((tmp_path / "two processes" / "summary.json").read_text())["devices"] == 4


@pytest.mark.parametrize("how", [pytest.param("parallel.mode=pmap", marks=pytest.mark.long), "parallel.fsdp=True"])
def test_other_modes_on_two_processes_give_the_numbers_of_one(reference, how, tmp_path):
    finish(local(*TINY, f"--workdir={tmp_path}", f"--config.{how}"))
    assert losses(tmp_path) == pytest.approx(losses(reference), rel=1e-5)
    assert measured(tmp_path) == pytest.approx(measured(reference), rel=1e-3)
    assert watched(tmp_path) == pytest.approx(watched(reference), rel=1e-3)


def test_two_processes_restore_alike(reference, tmp_path):
    tasks = ("--mode=inverse", "--config.inverse.solvers=('pnp',)", "--config.inverse.steps=(2,)",
             "--config.inverse.images=5", "--config.inverse.tuning_images=2", "--config.inverse.seeds=1")  # fmt: skip
    workdirs = tmp_path / "one", tmp_path / "two"
    for workdir, begin in zip(workdirs, (one, local), strict=True):
        shutil.copytree(reference, workdir)
        finish(begin(*TINY, *tasks, f"--workdir={workdir}"))
    rows, others = (json.loads((workdir / "summary.json").read_text())["inverse"] for workdir in workdirs)
    assert [row["solver"] for row in rows] == [row["solver"] for row in others]
    for name in ("mse", "data_residual", "nfe"):
        assert [row[name] for row in others] == pytest.approx([row[name] for row in rows], rel=1e-4)


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_run_ends_with_a_message_and_goes_on_from_its_last_checkpoint(tmp_path):
    """On other numbers of processes and devices, and in other modes, each time."""
    endless = (*TINY, f"--workdir={tmp_path}", "--mode=train", "--config.train.steps=100000")
    endless += ("--config.train.checkpoint_every=100000",)
    log = tmp_path / "metrics.jsonl"

    asked = local(*endless, "--config.parallel.fsdp=True", devices=1)
    until(lambda: log.exists() and len(log.read_text().splitlines()) > 3, asked)
    asked.send_signal(signal.SIGTERM)
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 128 + signal.SIGTERM, err[-3000:]
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert f"step {saved} is saved" in out

    killed = local(*endless[:-1], "--config.train.checkpoint_every=50", "--config.parallel.mode=pmap", devices=2)
    (saved_later,) = {saved - saved % 50 + 100}
    until(lambda: (tmp_path / "checkpoints" / str(saved_later)).exists(), killed)
    children = pathlib.Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    began = time.monotonic()
    out, err = killed.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert f"resumed from step {saved}" in out
    assert "local: process 1 of 2 ended by signal SIGKILL (-9), and with it the run" in err.splitlines()[-1]
    assert killed.returncode == 128 + signal.SIGKILL
    assert pathlib.Path(f"/proc/{children[0]}").exists() is False

    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert newest >= saved_later
    out = finish(one(*endless, f"--config.train.steps={newest + 5}"))
    assert f"resumed from step {newest}" in out


def test_ctrl_c_saves_and_a_signal_while_measuring_ends_at_once(tmp_path):
    slow = (*TINY, f"--workdir={tmp_path}", "--config.train.steps=100000", "--config.evaluate.noise_draws=100000")
    log = tmp_path / "metrics.jsonl"
    asked = local(*slow, devices=1)
    until(lambda: log.exists() and len(log.read_text().splitlines()) > 3, asked)
    asked.send_signal(signal.SIGINT)
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 128 + signal.SIGINT, err[-3000:]
    assert "Traceback" not in err
    saved = int(out.split("Termination requested; step ")[1].split()[0])
    assert (tmp_path / "checkpoints" / str(saved)).exists()

    measuring = local(*slow, f"--config.train.steps={saved}", devices=1)
    assert any("already trained" in line for line in measuring.stdout)
    time.sleep(3)
    measuring.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = measuring.communicate(timeout=60)
    assert time.monotonic() - began < 10, err[-3000:]
    assert measuring.returncode == 128 + signal.SIGTERM, err[-3000:]
    assert "Traceback" not in err


LATE = """
import os, signal, time, jax
from fmdp.training import checkpoint
from fmdp import main
from fmdp.cli.errors import run_program
leave = checkpoint.Checkpoints.__exit__
def late(checkpoints, *exception):
    if jax.process_index() == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)
    leave(checkpoints, *exception)
checkpoint.Checkpoints.__exit__ = late
run_program(main.main)
"""


def test_a_signal_to_one_process_while_the_last_checkpoint_is_written_ends_them_all(tmp_path):
    told = {"JAX_COORDINATOR_ADDRESS": "localhost:38472", "JAX_NUM_PROCESSES": "2", "PYTHONPATH": str(ROOT)}
    command = ("-c", LATE, *TINY, f"--workdir={tmp_path}", "--mode=train", "--distributed=auto")
    both = [start(*command, **told, JAX_PROCESS_ID=str(process)) for process in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGTERM, err[-3000:]
    assert (tmp_path / "checkpoints" / "20").exists()


def test_all_processes_stop_where_no_update_is_finite(tmp_path):
    wild = (
        "--config.optimizer.learning_rate=1e29",
        "--config.optimizer.warmup_steps=1",
        "--config.optimizer.decay=False",
    )
    stopped = local(
        *TINY, *wild, f"--workdir={tmp_path}", "--mode=train", "--config.train.max_consecutive_skips=3", devices=1
    )
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 2, err[-3000:]
    assert "3 updates in a row were not finite and skipped" in err
    assert "Traceback" not in err


def test_what_cannot_run_ends_in_one_line_and_no_hang(tmp_path):
    arguments = [*TINY, f"--workdir={tmp_path / 'new'}", "--distributed=auto", "--distributed_timeout=8"]

    def member(process, address):
        return {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(process)}

    launched = {
        "batch": local(*TINY, "--config.train.batch_size=254"),
        "mesh": local(*TINY, "--config.parallel.devices=8"),
    }
    alone = {
        "too few": member(0, "localhost:38471"),
        "unreachable": member(1, "localhost:9"),
        "no such host": member(1, "no.such.host.invalid:9"),
        "no cluster": {},
    }
    ended = {}
    for name, process in launched.items():
        out, err = process.communicate(timeout=120)
        ended[name] = Ended(process.returncode, out, err)
    ended |= run_forked(dict.fromkeys(alone, arguments), alone)
    said = {
        "batch": "must be divisible by the 4 devices",
        "mesh": "this run found 4",
        "too few": "not all 2 processes came to localhost:38471",
        "unreachable": "localhost:9 cannot be reached",
        "no such host": "cannot be reached",
        "no cluster": "no cluster was joined",
    }
    assert ended.keys() == said.keys()
    for name, (code, out, err) in ended.items():
        assert code == 2, (name, code, err[-2000:])
        assert out == "", (name, out)
        assert len(err.splitlines()) == 1, (name, err)
        assert said[name] in err, (name, err)
    assert not (tmp_path / "new").exists()
