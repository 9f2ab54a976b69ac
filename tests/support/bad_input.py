"""Limits that hold for whatever is wrong with the input: one line, little time, little memory."""

import contextlib
import resource
import signal

import pytest

from fmdp.errors import InputError

SPARE = 300 * 2**20  # bytes of memory that nothing hostile may take


def one_line(text):
    """Whether a message is one printable line."""
    return text and text.isprintable()


@contextlib.contextmanager
def at_most(seconds):
    """TimeoutError where the block takes longer."""

    def ring(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def little_memory():
    """AssertionError where the process grew by more than SPARE beyond its previous peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < SPARE


def refused(call, *arguments):
    """The one line with which a call refuses its arguments, in little time and memory."""
    with little_memory(), at_most(60), pytest.raises(InputError) as error:
        call(*arguments)
    assert one_line(str(error.value))
    return str(error.value)
