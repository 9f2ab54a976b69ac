"""The order of times, checked if their values are known (not under a transformation), and the times of training."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.errors import InputError, translating
from fmdp.types import PRNGKey, Time

ROUNDING = 1e-6


def check_times(*times: Any) -> None:
    """Raises InputError unless 0 <= s <= ... <= t <= 1, up to float32 rounding. Traced times pass."""
    if any(isinstance(time, jax.core.Tracer) for time in times):
        return
    known = [_as_times(time) for time in times]
    for earlier, later in pairwise((np.asarray(0.0), *known, np.asarray(1.0))):
        with translating("times do not belong to each other ({}): pass arrays of one shape".format, ValueError):
            s, t = np.broadcast_arrays(earlier, later)
        if (wrong := ~(s <= t + ROUNDING)).any():  # also where one is NaN
            i = np.argmax(wrong)
            found = f"{s.flat[i]:g} comes before {t.flat[i]:g}"
            raise InputError(f"times must ascend from 0 (noise) to 1 (clean): {found}; pass s <= t, both in [0, 1]")


def _as_times(time: Any) -> np.ndarray:
    """Known times as an array of numpy. Raises InputError for other than real numbers."""
    with translating(lambda why: f"times are not an array ({why}): pass real numbers", TypeError, ValueError):
        values = np.asarray(time)
    if values.dtype.kind not in "biuf" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise InputError(f"times hold {values.dtype}: pass real numbers from 0 (noise) to 1 (clean)")
    return values


def broadcast_times(x: Array, *times: Time) -> list[Array]:
    """The checked times with the dtype of x [..., H, W, C] and its leading shape."""
    check_times(*times)
    return [jnp.broadcast_to(jnp.asarray(time, x.dtype), x.shape[:-3]) for time in times]


def kronecker_times(key: PRNGKey, row: Array) -> tuple[Array, Array]:
    """Two uniform numbers for the example in this row of the batch.

    The rows of one batch fill the unit square evenly (a Kronecker lattice with one random shift per batch), which
    reduces the variance of the loss. Each single row is uniformly distributed.
    """
    steps = jnp.array([0.7548776662466927, 0.5698402909980532])  # 1/g, 1/g^2 with g^3 = g + 1
    u = (jax.random.uniform(key, (2,)) + row * steps) % 1.0
    return u[0], u[1]


QUANTILES: dict[str, Callable[[Array, float, float], Array]] = {
    "uniform": lambda u, mean, std: u,
    "logit_normal": lambda u, mean, std: jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u)),
    "late": lambda u, mean, std: jnp.sqrt(u),
}
"""The distributions of the times of training as their quantile functions (u, mean, std) -> time, increasing in u.

`logit_normal` is the law of 1 / (1 + exp(-z)), z normal with this mean and standard deviation (Esser et al., arXiv
2403.03206). `late` has the density 2t, so three quarters of the times lie above .5, where images are restored.
"""
