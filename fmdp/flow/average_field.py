"""The uses of an average field: carry points along the flow, denoise with a lookahead, and sample.

An average field v(x, s, t) is the mean velocity of the flow from time s to time t (see `fmdp.types.AverageField`).
On the diagonal it is the instantaneous velocity b(x, t) = v(x, t, t) = E[x1 - x0 | x_t = x].
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError, kind_fault, require_key
from fmdp.flow.dtypes import as_float, field_dtype, is_floating
from fmdp.flow.interpolant import expand
from fmdp.flow.times import check_times
from fmdp.types import AverageField, Images, Time

Times = ArrayLike | Sequence


def flow_map(field: AverageField, x: ArrayLike | Sequence, s: Times, t: Times) -> Images:
    """X_{s,t}(x) = x + (t - s) v(x, s, t): the point x at time s carried along the flow to time t.

    Args:
      x: [..., H, W, C].
      s, t: times in [0, 1], scalars or of the leading shape of x.
    """
    x, s, t = as_point(x, s, t, field_dtype(field, x))
    return x + expand(t - s, x) * field(x, s, t)


def denoise(field: AverageField, x: ArrayLike | Sequence, s: Times, t: Times) -> Images:
    """D_{s,t}(x) = x + (1 - s) v(x, s, t): the estimate of the clean image from the noisy point x at time s.

    The lookahead t leads from the minimum-error estimate E[x1 | x_s = x] at t = s to the end point X_{s,1}(x) of the
    flow at t = 1, which has the distribution of the data (arXiv 2606.19802).

    >>> from fmdp.exact import Gaussian
    >>> field = Gaussian(jnp.zeros((8, 8, 1)), 0.25).average_field  # pixels with standard deviation 0.5
    >>> y = 0.25 * jnp.ones((8, 8, 1))  # with noise of standard deviation 0.5, so s = 1 / (1 + 0.5)
    >>> s = 2 / 3
    >>> [round(float(denoise(field, s * y, s, t).mean()), 3) for t in (s, 1.0)]  # y / 2, y / sqrt(2)
    [0.125, 0.177]

    Args:
      x: [..., H, W, C], s x1 + (1 - s) noise. For a picture y with additive noise of standard deviation sigma, pass
        s y with s = `interpolant.time_of_sigma(sigma)`.
        Real numbers of any type are taken to that of the field.
      s, t: times with 0 <= s <= t <= 1, scalars or of the leading shape of x, real numbers of any type. A field is only
        defined, or trained, for this order.

    Raises:
      InputError: times in another order, which is not known in compiled code, or arrays of other shapes.
    """
    x, s, t = as_point(x, s, t, field_dtype(field, x))
    check_times(s, t)
    return x + expand(1 - jnp.asarray(s), x) * field(x, s, t)


def as_point(x: Any, s: Any, t: Any, dtype: Any) -> tuple[Array, Array | float, Array | float]:
    """What people give a field, as it takes it: images in this type, and times that are arrays or Python's floats.

    Raises:
      InputError: other than real numbers, no images, or times of another shape.
    """
    x = as_float(x, dtype, "x")
    s, t = (
        time if isinstance(time, float) or _is_ready(time) else as_float(time, x.dtype, name)
        for name, time in (("s", s), ("t", t))
    )
    for name, time in (("s", s), ("t", t)):
        _require_times(name, np.shape(time), x.shape)
    return x, s, t


def _is_ready(time: Any) -> bool:
    return isinstance(time, jax.Array) and is_floating(time)


def _require_times(name: str, found: tuple[int, ...], images: tuple[int, ...]) -> None:
    """Raises InputError unless there is one time for all images, or one for each."""
    if len(images) < 3 or 0 in images:
        raise InputError(f"x has shape {images}: pass images [..., height, width, channels], at least one")
    wanted = images[:-3]
    if len(found) > len(wanted) or any(a not in (1, b) for a, b in zip(found[::-1], wanted[::-1], strict=False)):
        remedy = f"pass one time, or one for each image, of shape {wanted}"
        raise InputError(f"{name} has shape {found} for images of shape {images}: {remedy}")


def lookahead_time(s: Times, r: Times) -> Array:
    """The time t = s + r (1 - s) of the relative lookahead r in [0, 1]; real numbers of any type, in one shape."""
    s = as_float(s, float, "s")
    r = r if isinstance(r, float | jax.Array) else as_float(r, float, "r")
    return s + r * (1 - s)


def integrate(field: AverageField, x: Images, s: Time, steps: int) -> Images:
    """X_{s,1}(x) by the instantaneous velocity v(x, t, t) alone: the midpoint rule, with two evaluations in each step.

    Args:
      x: [..., H, W, C] at time s.
      s: in [0, 1], a scalar or of the leading shape of x.
    """
    h = (1 - jnp.asarray(s, x.dtype)) / steps

    def step(x, k):
        t = s + h * k
        middle = x + expand(h / 2, x) * field(x, t, t)
        return x + expand(h, x) * field(middle, t + h / 2, t + h / 2), None

    return jax.lax.scan(step, x, jnp.arange(steps, dtype=x.dtype))[0]


def chord(field: AverageField, x: ArrayLike | Sequence, s: Times, r: Times) -> Images:
    """(1 - r) D_{s,s}(x) + r D_{s,1}(x): the straight line between the two ends of the lookahead.

    It is on the distortion-perception frontier for every Gaussian, and takes two evaluations of the field.

    Args:
      x: [..., H, W, C].
      s, r: time and position on the chord, both in [0, 1], scalars or of the leading shape of x.
    """
    x, s, r = as_point(x, s, r, field_dtype(field, x))
    r = expand(r, x)
    return (1 - r) * denoise(field, x, s, s) + r * denoise(field, x, s, jnp.ones_like(jnp.asarray(s, x.dtype)))


def sample(field: AverageField, key: Any, shape: Any, steps: Any = 1) -> Images:
    """New images of the given shape [..., H, W, C]: noise that is carried to time 1 in `steps` equal jumps.

    Raises:
      InputError: the key, the shape or the steps cannot be used.
    """
    require_key("samples are drawn at random", key)
    if (
        not isinstance(shape, list | tuple)
        or len(shape) < 3
        or any(kind_fault(side, int) or side < 1 for side in shape)
    ):
        raise InputError(f"shape={shape}: pass whole numbers from 1, (..., height, width, channels)")
    if kind_fault(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r}: pass a whole number from 1")
    times = jnp.linspace(0.0, 1.0, int(steps) + 1)

    def jump(x, interval):
        return flow_map(field, x, *interval), None

    x, _ = jax.lax.scan(jump, jax.random.normal(key, tuple(shape)), (times[:-1], times[1:]))
    return x
