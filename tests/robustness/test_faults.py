"""Killed at random moments, and read while it is written."""

import json
import signal
import time

import pytest

from tests.cli.test_main import command
from tests.support import faults


def check(kills):
    """No step is lost by being asked to end, at most those since the last checkpoint otherwise; all in time."""
    for kill in kills:
        if kill.signal == signal.SIGTERM:
            assert kill.seconds < faults.GRACE
            if kill.code < 0:  # ended by the system, as nobody asks before training and after it
                assert kill.phase in ("start", "evaluation")
            else:
                assert kill.lost == 0
        assert kill.lost <= 2 * faults.EVERY  # one checkpoint was being written, and the next one waited for it
    print(faults.figures(kills))


@pytest.mark.slow
def test_two_kills_change_nothing(tmp_path):
    """SIGKILL in training and SIGTERM in the evaluation; the test below does so again and again."""
    check(faults.harass(tmp_path, kills=2, steps=60, seed=0))


@pytest.mark.slow
@pytest.mark.long
def test_twenty_five_kills_change_nothing(tmp_path, capsys):
    with capsys.disabled():
        print()
        check(faults.harass(tmp_path, kills=25, steps=1000, seed=1))


@pytest.mark.slow
def test_evaluation_reads_while_training_writes(tmp_path):
    endless = faults.Run(tmp_path, 100_000)
    training = command(
        *endless.options, "--mode=train", "--config.train.checkpoint_every=3", "--config.train.max_to_keep=1"
    )
    try:
        while endless.saved() == 0:
            assert training.poll() is None, training.communicate()[1][-3000:]
            time.sleep(0.05)
        seen = []
        for _ in range(2):
            out, err = command(*endless.options, "--mode=evaluate").communicate(timeout=200)
            assert "results in" in out, err[-3000:]
            assert "damaged" not in out + err
            seen.append(json.loads((tmp_path / "summary.json").read_text())["train"]["steps"])
        assert seen[0] < seen[1] < endless.saved()
        assert training.poll() is None
    finally:
        training.terminate()
        _, err = training.communicate(timeout=60)
    assert training.returncode == 128 + signal.SIGTERM, err[-3000:]
    assert "Traceback" not in err
    assert not (tmp_path / "damaged").exists()
