"""How far a field is from being the average velocity of its own flow, and from a known field; zero where it is exact.

Each residual is one number per example: the mean square of the difference between the two sides of an identity,
divided by the mean square of the side that its docstring names (both over pixels). Its square root is a relative error.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from fmdp.flow import identities
from fmdp.flow.interpolant import interpolate
from fmdp.flow.times import broadcast_times, check_times
from fmdp.parallel.batching import in_batches
from fmdp.types import AverageField, Images, PRNGKey, Time


def relative_square(difference: Images, reference: Images) -> Array:
    """Mean square over pixels of the difference, divided by that of the reference, [...] of the leading shape."""
    axes = (-3, -2, -1)
    scale = jnp.mean(jnp.square(reference), axes)
    return jnp.mean(jnp.square(difference), axes) / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)


def lagrangian(field: AverageField, x: Images, s: Time, t: Time) -> Array:
    """d/dt X_{s,t}(x) against v(X_{s,t}(x), t, t), relative to the latter, [...].

    Args:
      x: [..., H, W, C], points at time s.
      s, t: 0 <= s <= t <= 1, scalars or of the leading shape of x; in `semigroup` s <= u <= t.

    Raises:
      InputError: times out of range or out of order.
    """
    s, t = broadcast_times(x, s, t)
    speed, instantaneous = identities.lagrangian(field, x, s, t)
    return relative_square(speed - instantaneous, instantaneous)


def eulerian(field: AverageField, x: Images, s: Time, t: Time) -> Array:
    """d/ds X_{s,t}(x) + grad X_{s,t}(x) . b against 0, b = v(x, s, s) the field's own; relative to b, [...]."""
    s, t = broadcast_times(x, s, t)
    b = field(x, s, s)
    v, target = identities.eulerian(field, x, s, t, b)
    return relative_square(target - v, b)


def semigroup(field: AverageField, x: Images, s: Time, u: Time, t: Time) -> Array:
    """v(x, s, t) against the mean velocity of the jumps s -> u -> t, relative to v, [...]."""
    s, u, t = broadcast_times(x, s, u, t)
    v, jumps = identities.semigroup(field, x, s, u, t)
    return relative_square(v - jumps, v)


def relative_field_error(field: AverageField, exact: AverageField, x: Images, s: Time, t: Time) -> Array:
    """||v - v_exact|| / ||v_exact|| at (x, s, t), norms over pixels, per example (a ratio of norms, not of squares)."""
    s, t = broadcast_times(x, s, t)
    truth = exact(x, s, t)
    return jnp.sqrt(relative_square(field(x, s, t) - truth, truth))


def table(
    field: AverageField,
    images: Images,
    key: PRNGKey,
    pairs: Sequence[tuple[float, float]],
    exact: AverageField | None = None,
    size: int | None = None,
) -> list[dict[str, float]]:
    """The mean residuals over clean images with fresh noise, at each (s, t) of a grid.

    Args:
      field: its arrays lie on all devices of the run, or are not placed on any.
      images: [N, H, W, C], clean; equal in all processes.
      pairs: the (s, t), 0 <= s <= t <= 1; the semigroup's middle time is (s + t) / 2.
      exact: the exact field of the target, where it is known.
      size: the largest number of images in one pass, over all devices; all of them unless given.

    Returns:
      For each pair {"s", "t", "lagrangian", "eulerian", "semigroup"} and, with `exact`, "field_error": the root mean
      square error over all images and pixels, relative to the exact field.
    """
    fields = [f if f is None or isinstance(f, Partial) else Partial(f) for f in (field, exact)]
    noise = jax.random.normal(key, images.shape, images.dtype)
    rows = []
    for s, t in pairs:
        check_times(s, t)
        times = (np.full(len(images), time, images.dtype) for time in (s, t))
        points = (interpolate(noise, images, s), *times)
        found = in_batches(lambda rows: _measure(*fields, *rows), points, min(size or len(images), len(images)))
        means = {name: float(values.mean()) for name, values in found.items()}
        if exact is not None:
            means["field_error"] = float(np.sqrt(means.pop("squared_error") / means.pop("squared_truth")))
        rows.append(dict(s=float(s), t=float(t), **means))
    return rows


@jax.jit
def _measure(field: AverageField, exact: AverageField | None, x: Array, s: Array, t: Array) -> dict[str, Array]:
    """The residuals of each row and, with `exact`, the mean squares of which the error of the field is the ratio."""
    row = {
        "lagrangian": lagrangian(field, x, s, t),
        "eulerian": eulerian(field, x, s, t),
        "semigroup": semigroup(field, x, s, (s + t) / 2, t),
    }
    if exact is not None:
        truth, axes = exact(x, s, t), (-3, -2, -1)
        row["squared_error"] = jnp.mean(jnp.square(field(x, s, t) - truth), axes)
        row["squared_truth"] = jnp.mean(jnp.square(truth), axes)
    return row
