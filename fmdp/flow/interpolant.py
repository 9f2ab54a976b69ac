"""The linear path from noise (time 0) to data (time 1): x_t = (1 - t) x0 + t x1, x0 ~ N(0, I)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.flow.dtypes import as_float
from fmdp.types import Images, Time


def expand(t: Time, x: Images) -> Array:
    """Times t, a scalar or of the leading shape of x, with axes added so that they broadcast against x."""
    t = jnp.asarray(t, x.dtype)
    return t[..., None, None, None] if t.ndim else t


def interpolate(x0: Images, x1: Images, t: Time) -> Images:
    """The point x_t between the noise x0 and the data x1, with their shape; t in [0, 1]."""
    t = expand(t, x1)
    return (1 - t) * x0 + t * x1


def conditional_velocity(x0: Images, x1: Images) -> Images:
    """dx_t/dt = x1 - x0, the same at every time of the path."""
    return x1 - x0


def time_of_sigma(sigma: ArrayLike | Sequence) -> Array:
    """The time s = 1 / (1 + sigma) at which s y lies on the path, where y = x1 + sigma n.

    sigma >= 0 is the standard deviation of the noise on the [-1, 1] scale.

    Raises:
      InputError: other than real numbers, or a negative one, which is not known in arrays of JAX.
    """
    levels = as_float(sigma, float, "sigma")
    if not isinstance(sigma, jax.Array) and not isinstance(levels, jax.core.Tracer) and not np.all(levels >= 0):
        raise InputError(f"sigma = {float(np.min(levels)):g}: pass standard deviations, from 0")
    return 1 / (1 + levels)


def sigma_of_time(s: Time) -> Array:
    """The standard deviation sigma = (1 - s) / s, on the [-1, 1] scale, of the noise in x_s / s; s in (0, 1]."""
    s = jnp.asarray(s, float)
    return (1 - s) / s
