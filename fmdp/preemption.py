"""Being asked to end: a machine is taken away, or somebody pressed Ctrl-C. The step at hand is saved first."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], int]]:
    """Gives a function of the step that says by which signal the run was asked to end, 0 while it was not.

    The first SIGTERM or SIGINT only asks, the next one ends the program at once. What came too late for the function to
    say it raises SystemExit where the watch ends. Several processes are told by JAX, all at the same step. Outside the
    main thread, where Python takes no signals, nobody is ever asked.
    """
    if jax.process_count() > 1:
        yield lambda step: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: 0
        return
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number, frame):
        asked.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield lambda step: asked[0] if asked else 0
    finally:
        restore()
    if asked:
        print("asked to end: all steps are saved, the same command goes on from there", flush=True)
        raise SystemExit(128 + asked[0])
