"""Scalars of a training run, as JSON lines and TensorBoard events; the time that compiling takes."""

import json
import os
import pathlib

import jax
from tensorboardX import SummaryWriter

from fmdp.files import replacing


class ScalarLog:
    """Appends to metrics.jsonl and to TensorBoard events in a workdir; a context manager.

    Of several processes only the first writes.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        """Go on from `step`: lines that an interrupted run wrote beyond it are dropped."""
        first = jax.process_index() == 0
        path = workdir / "metrics.jsonl" if first else pathlib.Path(os.devnull)
        if first and path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
            with replacing(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir), purge_step=step + 1, write_to_disk=first)

    def __enter__(self) -> "ScalarLog":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars of one step."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)


def _step(line: str) -> float:
    """The step of a line, infinite for one that a crash cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


class Compiling:
    """Counts the seconds in which JAX traces and compiles, or fetches what is compiled from its cache, from now on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            self.seconds += duration_secs
