"""How long this process has spent on compiling."""

import functools
import math

import jax


def compile_seconds() -> float:
    """Seconds spent on tracing and compiling, or on reading compiled programs from the cache, since the first call."""
    return math.fsum(_durations())


@functools.cache
def _durations() -> list[float]:
    """The seconds of every compilation from the first call on; JAX appends to the list."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds
