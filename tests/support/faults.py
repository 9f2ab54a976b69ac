"""A run of the digits that is killed at random moments and started again each time, beside one that is not.

And a signal at a chosen step of a run in this process.
"""

import contextlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np

from configs import digits
from fmdp import data
from fmdp.parallel import preemption
from fmdp.training import loop
from tests.cli.test_main import command

EVERY = 10  # steps between two checkpoints
OPTIONS = (
    "--config=configs/digits.py:smoke", f"--config.train.checkpoint_every={EVERY}", "--config.train.log_every=1",
    "--config.evaluate.baseline_images=0", "--config.evaluate.noise_draws=1", "--config.evaluate.points=3",
    "--config.evaluate.noise_levels=(0.5,)", "--config.evaluate.bootstrap=5",
)  # fmt: skip
PHASES = {"start": 4.0, "step": 0.05, "save": 0.03, "evaluation": 3.0}  # and how long after its begin a signal comes
GRACE = 30.0  # seconds from SIGTERM to the end, which is what Kubernetes and SLURM give unless told otherwise


@contextlib.contextmanager
def signal_before(step: int, number: int) -> Iterator[None]:
    """In this context, a run in this process is sent a signal when it takes the batch of a step."""
    original = data.placed_ahead

    def interrupted(*arguments):
        for batch, position in original(*arguments):
            if position["next_index"] == step:
                os.kill(os.getpid(), number)
            yield batch, position

    with mock.patch.object(data, "placed_ahead", interrupted):
        yield


class Kill(NamedTuple):
    """One kill: where the run was, the newest checkpoint it left, and how long it took to end, in seconds."""

    signal: signal.Signals
    phase: str
    reached: int
    saved: int
    seconds: float
    code: int

    @property
    def lost(self) -> int:
        """Steps that have to be taken again."""
        return max(self.reached - self.saved, 0)


class Run:
    """The run in one workdir."""

    def __init__(self, workdir: pathlib.Path, steps: int):
        self.workdir, self.steps = workdir, steps
        self.options = (*OPTIONS, f"--config.train.steps={steps}", f"--workdir={workdir}")

    def logged(self) -> list[dict]:
        """The lines of metrics.jsonl; one that is being written is left out."""
        try:
            lines = (self.workdir / "metrics.jsonl").read_text().split("\n")[:-1]
        except OSError:
            return []
        return [json.loads(line) for line in lines]

    def reached(self) -> int:
        """The last step that is logged, 0 for none."""
        return int(max((line["step"] for line in self.logged()), default=0))

    def saved(self) -> int:
        """The step of the newest checkpoint under its final name, 0 for none."""
        names = [path.name for path in (self.workdir / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def is_in(self, phase: str, step: int) -> bool:
        """Whether the run has come to a phase; to steps and saves from the given step on."""
        if phase == "start":
            return True
        if phase == "evaluation":
            return self.saved() == self.steps
        saving = any((self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        return self.reached() >= step and (phase == "step" or saving)

    def kill(self, number: signal.Signals, phase: str, step: int, rng: np.random.Generator) -> Kill:
        """Start it, and send it a signal at a random moment of a phase."""
        step = min(max(step, self.reached() + 1), self.steps)  # not what the run before this one has logged
        trained, process = self.saved() == self.steps, command(*self.options)
        if trained:  # it says so when it begins to measure, and shows it in no file
            assert any("already trained" in line for line in process.stdout)
        while not self.is_in(phase, step) and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, PHASES[phase]))
        reached = self.reached()
        process.send_signal(number)
        asked = time.monotonic()
        out, err = process.communicate(timeout=120)
        seconds, code = time.monotonic() - asked, process.returncode
        assert "Traceback" not in err, err[-3000:]
        assert "damaged" not in out
        assert code in (0, -number, 128 + number), (code, err[-3000:])
        return Kill(number, phase, reached, self.saved(), seconds, code)

    def finish(self) -> None:
        """Let it come to its end."""
        process = command(*self.options)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        assert "damaged" not in out

    def result(self) -> list[np.ndarray]:
        """All arrays of the state at the end."""
        config = digits.get_config("smoke")
        state, progress = loop.restore_state(config, data.digits()[0].shape[1:], self.workdir)
        assert progress["steps"] == self.steps
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]

    def scores(self) -> list[dict]:
        """What was measured on the network of the end."""
        return json.loads((self.workdir / "summary.json").read_text())["denoise"]


def harass(folder: pathlib.Path, kills: int, steps: int, seed: int) -> list[Kill]:
    """Kill a run so many times, a fifth of them in its evaluation, and hold its end against one never killed."""
    whole, killed, rng = Run(folder / "whole", steps), Run(folder / "killed", steps), np.random.default_rng(seed)
    whole.finish()
    late = max(kills // 5, 1)
    found: list[Kill] = []
    while len(found) < kills:
        number = (signal.SIGKILL, signal.SIGTERM)[len(found) % 2]
        early = len(found) < kills - late
        phase = str(rng.choice(["start", "step", "step", "save", "save"])) if early else "evaluation"
        step = round(steps * (len(found) + rng.uniform(0, 0.5)) / (kills - late))
        kill = killed.kill(number, phase, step, rng)
        print(f"{len(found) + 1:3d} {kill.signal.name} in {phase:10} at step {kill.reached:4d}: {kill.saved:4d} saved,"
              f" ended in {kill.seconds:.2f} s, exit code {kill.code}", flush=True)  # fmt: skip
        if kill.code:  # or else it came after the end
            found.append(kill)
    killed.finish()
    for a, b in zip(killed.result(), whole.result(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert killed.scores() == whole.scores()
    a, b = ([(line["step"], line["loss"]) for line in run.logged()] for run in (killed, whole))
    assert a == b
    assert not (killed.workdir / "damaged").exists()
    assert not list((killed.workdir / "checkpoints").glob("*tmp*"))
    return found


def figures(kills: list[Kill]) -> str:
    """What the kills amount to, in one line."""
    asked = [kill for kill in kills if kill.signal in preemption.SIGNALS]
    hard = [kill for kill in kills if kill.signal not in preemption.SIGNALS]
    phases = ", ".join(f"{sum(kill.phase == phase for kill in kills)} in {phase}" for phase in PHASES)
    return (
        f"{len(kills)} kills survived ({phases}), end equal bit for bit, nothing damaged;"
        f" steps lost: SIGKILL {sum(k.lost for k in hard)} in {len(hard)} (at most {max(k.lost for k in hard)}),"
        f" SIGTERM {sum(k.lost for k in asked)} in {len(asked)};"
        f" longest from SIGTERM to the end {max(k.seconds for k in asked):.2f} s"
    )
