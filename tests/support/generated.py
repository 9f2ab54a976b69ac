"""How many cases a test with generated input draws."""

from hypothesis import settings

EXPLORING = 10  # times as many cases where the cases are new ones each time


def cases(count: int) -> settings:
    """So many cases of the profile at hand (`tests/conftest.py`), more of them where it explores."""
    return settings(max_examples=count * (1 if settings.default.derandomize else EXPLORING))
