"""Termination by a signal: a machine is taken away, or somebody presses Ctrl-C. The current step is saved first."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[int], int]]:
    """Yields a function of the step that returns the signal which requested termination, 0 while there is none.

    The first SIGTERM or SIGINT is a request, the next one ends the program at once. A request that comes too late for
    the function raises SystemExit when the context ends. JAX informs several processes, all at the same step, and a
    second SIGTERM changes nothing for them. Outside the main thread Python receives no signals.
    """
    several = jax.process_count() > 1
    taken = (signal.SIGINT,) if several else SIGNALS
    before = {number: signal.getsignal(number) for number in taken if _is_main_thread()}
    asked: list[int] = []
    last = 0

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number, frame):
        restore()
        if several:
            os.kill(os.getpid(), signal.SIGTERM)  # the only one that JAX passes on to all
        asked.append(number)

    def asked_to_end(step):
        nonlocal last
        last = step
        if several:
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return asked[0] if asked else 0

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked_to_end
    finally:
        restore()
    if number := asked_to_end(last + 1):  # JAX names a step that no process has reached
        end_run(number, "all steps are saved")
    stop_watching()


def end_run(number: int, saved: str) -> NoReturn:
    """End a run that a signal asked to terminate, with a line that says what is saved.

    Raises:
      SystemExit: with the code 128 plus the signal.
    """
    print(f"Termination requested; {saved}. Run the same command again to resume.", flush=True)
    raise SystemExit(128 + number)


def stop_watching() -> None:
    """Let SIGTERM end this process at once, because there is nothing left to save; JAX would only note it."""
    if jax.process_count() > 1 and _is_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
