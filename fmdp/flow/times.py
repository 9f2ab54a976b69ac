"""The order of times, checked if their values are known (not under a transformation), and the times of training."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.errors import InputError
from fmdp.types import PRNGKey, Time

ROUNDING = 1e-6


def check_times(*times: Time) -> None:
    """Raises InputError unless 0 <= s <= ... <= t <= 1, up to float32 rounding. Traced times pass."""
    if any(isinstance(time, jax.core.Tracer) for time in times):
        return
    values = [np.asarray(time) for time in times]
    for value in values:
        if not np.all((value >= -ROUNDING) & (value <= 1 + ROUNDING)):
            raise InputError(f"time {_worst(value)} is outside [0, 1]: time 0 is pure noise, time 1 is clean data")
    for earlier, later in pairwise(values):
        s, t = np.broadcast_arrays(earlier, later)
        if np.any(s > t + ROUNDING):
            i = np.argmax(s - t)
            raise InputError(f"times must ascend, got s = {s.flat[i]:g} > t = {t.flat[i]:g}: swap them")


def _worst(value: np.ndarray) -> str:
    return f"{value.flat[np.argmax(np.where(np.isnan(value), np.inf, np.abs(value - 0.5)))]:g}"


def kronecker_times(key: PRNGKey, row: Array) -> tuple[Array, Array]:
    """Two uniform numbers for the example in this row of the batch.

    The rows of one batch fill the unit square evenly (a Kronecker lattice with one random shift per batch), which
    reduces the variance of the loss. Each single row is uniformly distributed.
    """
    steps = jnp.array([0.7548776662466927, 0.5698402909980532])  # 1/g, 1/g^2 with g^3 = g + 1
    u = (jax.random.uniform(key, (2,)) + row * steps) % 1.0
    return u[0], u[1]
