"""Scalars of a training run, as JSON lines and TensorBoard events."""

import json
import math
import os
import pathlib
import time

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import Summary

from fmdp.io.files import atomic_write

FLUSH = 10.0  # seconds between two waits for the disk to have the events


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
            with atomic_write(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in kept))
        self._file = path.open("a")
        # Written at once: the thread of tensorboardX's own writer would die on a full disk, and the run then hang.
        self._events = EventsWriter(str(workdir / "events")) if first else None
        self._flushed = -math.inf
        self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> "ScalarLog":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        if self._events:
            self._events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars of one step; null stands for those that are not finite."""
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(step, summary=Summary(value=values))

    def _add(self, step: int, **what) -> None:
        if not self._events:
            return
        self._events.write_event(Event(step=step, wall_time=time.time(), **what))
        if time.monotonic() - self._flushed > FLUSH:
            self._events.flush()
            self._flushed = time.monotonic()


def _step(line: str) -> float:
    """The step of a line, infinite for one that a crash cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
