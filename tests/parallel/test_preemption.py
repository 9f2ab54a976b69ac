import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir
from fmdp.parallel import preemption
from fmdp.training import checkpoint, loop
from tests.cli.test_main import ROOT, command
from tests.support.faults import signal_before
from tests.training.test_loop import IMAGES, leaves, small_config


@pytest.mark.slow
@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_a_signal_ends_the_run_with_the_step_at_hand_saved(number, tmp_path, capsys):
    """And what goes on from there is, bit for bit, what was never interrupted."""
    whole, _ = loop.fit(small_config(steps=8), IMAGES, tmp_path / "whole")
    before = [signal.getsignal(n) for n in preemption.SIGNALS]
    with signal_before(3, number), pytest.raises(SystemExit) as ended:
        loop.fit(small_config(steps=8), IMAGES, tmp_path / "cut")
    assert ended.value.code == 128 + number
    assert "Termination requested; step 3 is saved." in capsys.readouterr().out
    assert [signal.getsignal(n) for n in preemption.SIGNALS] == before
    resumed, progress = loop.fit(small_config(steps=8), IMAGES, tmp_path / "cut")
    assert progress["steps"] == 8
    for a, b in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_a_signal_while_the_last_checkpoint_is_written_ends_the_run_once_it_is_whole(
    number, tmp_path, monkeypatch, capsys
):
    leave = checkpoint.Checkpoints.__exit__

    def interrupted(checkpoints, *exception):
        os.kill(os.getpid(), number)
        leave(checkpoints, *exception)

    monkeypatch.setattr(checkpoint.Checkpoints, "__exit__", interrupted)
    with pytest.raises(SystemExit) as ended:
        loop.fit(small_config(steps=8), IMAGES, tmp_path)
    monkeypatch.undo()
    assert ended.value.code == 128 + number
    assert "Termination requested; all steps are saved." in capsys.readouterr().out
    assert loop.restore_state(small_config(steps=8), IMAGES.shape[1:], tmp_path)[1]["steps"] == 8


def test_a_second_signal_ends_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what pytest-xdist takes away
    try:
        with pytest.raises(SystemExit):
            ask_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def ask_twice():
    with preemption.watch_signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked(1) == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_threads_are_never_asked():
    found = []

    def run():
        with preemption.watch_signals() as asked:
            found.append(asked(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [0]


@pytest.mark.slow
def test_sigterm_from_outside_and_the_same_command_again(tmp_path):
    arguments = ["--config=configs/digits.py:smoke", f"--workdir={tmp_path}", "--mode=train"]
    started = command(*arguments, "--config.train.steps=100000")
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert started.poll() is None, started.communicate()[1][-2000:]
        time.sleep(0.2)
    started.terminate()
    out, err = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM, err[-2000:]
    assert "Traceback" not in err
    saved = int(out.split("step ")[-1].split()[0])
    again = command(*arguments, f"--config.train.steps={saved}")
    assert f"already trained for {saved} steps" in again.communicate(timeout=120)[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_to_the_whole_group_leaves_the_processes_that_read_pictures_to_their_run(number, tmp_path):
    """As Ctrl-C sends it. The pictures are so large that the loop waits for the next ones when it comes."""
    started, workers = reading(tmp_path)
    os.killpg(started.pid, number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 128 + number, err[-2000:]
    saved = int(out.split("Termination requested; step ")[1].split()[0])
    assert (tmp_path / "run" / "checkpoints" / str(saved)).exists()
    assert "Traceback" not in err
    assert not any(worker.exists() for worker in workers)


@pytest.mark.slow
def test_processes_that_read_pictures_end_with_a_run_that_is_killed(tmp_path):
    started, workers = reading(tmp_path)
    started.kill()
    started.communicate(timeout=60)
    end = time.monotonic() + 20
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.1)


def reading(folder):
    """A run that trains, a process group of its own, and its processes that read large pictures."""
    (folder / "pictures").mkdir()
    for shade in range(8):
        Image.new("RGB", (3000, 3000), (shade, 0, 0)).save(folder / "pictures" / f"{shade}.png")
    started = subprocess.Popen(
        [sys.executable, "-m", "fmdp.main", "--config=configs/digits.py:smoke", "--mode=train",
         f"--workdir={folder / 'run'}", "--config.data.source=folder", f"--config.data.path={folder / 'pictures'}",
         "--config.data.size=8", "--config.data.test_share=0.25", "--config.data.memory_gb=0.0",
         "--config.data.workers=1", "--config.train.batch_size=8", "--config.train.steps=100000",
         "--config.train.log_every=1"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    log = folder / "run" / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert started.poll() is None, started.communicate()[1][-2000:]
        time.sleep(0.1)
    lists = pathlib.Path(f"/proc/{started.pid}/task").glob("*/children")
    children = [pathlib.Path("/proc", child) for one in lists for child in one.read_text().split()]
    workers = [child for child in children if b"spawn_main" in (child / "cmdline").read_bytes()]
    assert len(workers) == 1
    return started, workers


HOLD = """
import pathlib, sys, time
from fmdp.io.run_dir import RunDir
with RunDir(pathlib.Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_workdir_belongs_to_one_run_until_it_dies(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(InputError, match=rf"is in use by process {other.pid} on .*: wait until it ends"),
        RunDir(tmp_path).lock(),
    ):
        pass
    other.kill()
    other.communicate()
    for _ in range(2):
        with RunDir(tmp_path).lock():
            assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()
