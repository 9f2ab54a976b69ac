"""Stopping on request, when a machine is preempted or somebody presses Ctrl-C, after saving the current step."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def watch_signals() -> Iterator[Callable[[int], int]]:
    """Gives a function of the step that returns the signal which asked the run to stop, or 0 if there was none.

    The first SIGTERM or SIGINT is a request; the next one ends the program at once. A request that comes too late for
    the function raises SystemExit at the end of the block. JAX informs several processes, all at the same step; a
    second SIGTERM has no effect on them. Outside the main thread Python cannot handle signals.
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
            os.kill(os.getpid(), signal.SIGTERM)  # the only signal that JAX passes to all processes
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
        print("Termination requested; all steps are saved. Run the same command again to resume.", flush=True)
        raise SystemExit(128 + number)
    stop_watching()


def stop_watching() -> None:
    """Let SIGTERM end this process at once, now that nothing is left to save; JAX would only record it."""
    if jax.process_count() > 1 and _is_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
