"""How far a field is from being the average velocity of its own flow, and from a known one: zero at an exact field.

Each residual is a number per example: the mean square of the identity's two sides' difference, divided by the mean
square of the side named in its docstring (both over pixels). The square root reads as a relative error.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from fmdp.flow.average_field import flow_map
from fmdp.flow.interpolant import expand, interpolate
from fmdp.flow.times import check_times
from fmdp.types import AverageField, Images, PRNGKey, Time


def relative_square(difference: Images, reference: Images) -> Array:
    """Mean square over pixels of the difference, divided by that of the reference, [...] of the leading shape."""
    axes = (-3, -2, -1)
    scale = jnp.mean(jnp.square(reference), axes)
    return jnp.mean(jnp.square(difference), axes) / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)


def lagrangian(field: AverageField, x: Images, s: Time, t: Time) -> Array:
    """d/dt X_{s,t}(x) against v(X_{s,t}(x), t, t), relative to the latter, per example.

    Args:
      x: [..., H, W, C], points at time s.
      s, t: 0 <= s <= t <= 1, scalars or of the leading shape of x; in `semigroup` s <= u <= t.
    """
    s, t = _times(x, s, t)
    end, speed = jax.jvp(lambda t: flow_map(field, x, s, t), (t,), (jnp.ones_like(t),))
    instantaneous = field(end, t, t)
    return relative_square(speed - instantaneous, instantaneous)


def eulerian(field: AverageField, x: Images, s: Time, t: Time) -> Array:
    """d/ds X_{s,t}(x) + grad X_{s,t}(x) . b against 0, b = v(x, s, s) the field's own; relative to b, per example."""
    s, t = _times(x, s, t)
    b = field(x, s, s)
    _, change = jax.jvp(lambda x, s: flow_map(field, x, s, t), (x, s), (b, jnp.ones_like(s)))
    return relative_square(change, b)


def semigroup(field: AverageField, x: Images, s: Time, u: Time, t: Time) -> Array:
    """v(x, s, t) against the jump s -> u followed by u -> t, as a mean velocity; relative to v, per example."""
    s, u, t = _times(x, s, u, t)
    v, first = field(x, s, t), field(x, s, u)
    second = field(x + expand(u - s, x) * first, u, t)
    share = expand(jnp.where(t > s, (t - u) / jnp.where(t > s, t - s, 1), 0), x)
    return relative_square(v - (1 - share) * first - share * second, v)


def relative_field_error(field: AverageField, exact: AverageField, x: Images, s: Time, t: Time) -> Array:
    """||v - v_exact|| / ||v_exact|| at (x, s, t), norms over pixels, per example (a ratio of norms, not of squares)."""
    s, t = _times(x, s, t)
    truth = exact(x, s, t)
    return jnp.sqrt(relative_square(field(x, s, t) - truth, truth))


def table(
    field: AverageField,
    images: Images,
    key: PRNGKey,
    pairs: Sequence[tuple[float, float]],
    exact: AverageField | None = None,
) -> list[dict[str, float]]:
    """The residuals' means over clean images, noised afresh, at each (s, t) of a grid.

    Args:
      images: [N, H, W, C], clean.
      pairs: the (s, t), 0 <= s <= t <= 1; the semigroup's middle time is (s + t) / 2.
      exact: the target's own field, where it is known.

    Returns:
      For each pair {"s", "t", "lagrangian", "eulerian", "semigroup"} and, with `exact`, "field_error": the root of
      the mean square error over all images and pixels, relative to the exact field's.
    """
    fields = [f if f is None or isinstance(f, Partial) else Partial(f) for f in (field, exact)]
    noise = jax.random.normal(key, images.shape, images.dtype)
    rows = []
    for s, t in pairs:
        check_times(s, t)
        times = (jnp.full(len(images), time, images.dtype) for time in (s, t))
        measured = _measure(*fields, interpolate(noise, images, s), *times)
        rows.append(dict(s=float(s), t=float(t), **{name: float(np.asarray(v)) for name, v in measured.items()}))
    return rows


@jax.jit
def _measure(field: AverageField, exact: AverageField | None, x: Array, s: Array, t: Array) -> dict[str, Array]:
    row = {
        "lagrangian": lagrangian(field, x, s, t).mean(),
        "eulerian": eulerian(field, x, s, t).mean(),
        "semigroup": semigroup(field, x, s, (s + t) / 2, t).mean(),
    }
    if exact is not None:
        truth = exact(x, s, t)
        row["field_error"] = jnp.linalg.norm(field(x, s, t) - truth) / jnp.linalg.norm(truth)
    return row


def _times(x: Array, *times: Time) -> list[Array]:
    """The times, checked, one for each image of x."""
    check_times(*times)
    return [jnp.broadcast_to(jnp.asarray(time, x.dtype), x.shape[:-3]) for time in times]
