"""Termination by a signal: the machine is reclaimed, or the user presses Ctrl-C. The current step is saved first."""

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
    """Yields a function of the step. It returns the signal that requested termination, or 0 if there is none.

    The first SIGTERM or SIGINT requests termination; the next one ends the program at once. If a request comes after
    the last call of the function, SystemExit is raised when the context ends. In a run of several processes JAX informs
    all of them at the same step, and a second SIGTERM has no effect. Python handles signals in the main thread only,
    so no handler is installed in any other thread.
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
            os.kill(os.getpid(), signal.SIGTERM)  # the only signal that JAX passes on to all processes
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
    """End a run whose termination a signal requested, with a line that says what is saved.

    Raises:
      SystemExit: with the code 128 plus the signal.
    """
    print(f"Termination requested; {saved}. Run the same command again to resume.", flush=True)
    raise SystemExit(128 + number)


def stop_watching() -> None:
    """Let SIGTERM end this process at once, because nothing is left to save. JAX's handler would only record it."""
    if jax.process_count() > 1 and _is_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
