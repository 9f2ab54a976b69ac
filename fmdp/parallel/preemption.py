"""Being asked to end: a machine is taken away, or somebody pressed Ctrl-C. The step at hand is saved first."""

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
    """Gives a function of the step that says by which signal the run was asked to end, 0 while it was not.

    The first SIGTERM or SIGINT only asks, the next one ends the program at once. What came too late for the function to
    say it raises SystemExit where the watch ends. Several processes are told by JAX, all at the same step, and a second
    SIGTERM asks nothing new of them. Outside the main thread Python takes no signals.
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
            os.kill(os.getpid(), signal.SIGTERM)  # the only one that JAX tells to all
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
    if number := asked_to_end(last + 1):  # JAX names a step that no process has come to
        print("asked to end: all steps are saved, the same command goes on from there", flush=True)
        raise SystemExit(128 + number)
    stop_watching()


def stop_watching() -> None:
    """From here on there is nothing to save: SIGTERM ends this process at once, which JAX would only take note of."""
    if jax.process_count() > 1 and _is_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
