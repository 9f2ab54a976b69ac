"""The three identities that make a field the average velocity of its own flow: each as its two sides, to be equal.

Training (`losses`) and measuring (`residuals`) compare the same two sides. Points x are [..., H, W, C] at time s; times
are scalars or of the leading shape of x, 0 <= s <= u <= t <= 1 (Boffi et al., arXiv 2505.18825). The second side is the
target of the first, so the fields that only it needs are evaluated without a derivative by their parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from fmdp.flow.average_field import flow_map
from fmdp.flow.interpolant import expand
from fmdp.types import AverageField, Images, Time


def held(field: AverageField) -> AverageField:
    """The field with its parameters held fixed, where they are its leaves; this saves tracing their derivatives."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if isinstance(x, Array) else x, field)


def difference(path: Callable[[Time], Array], time: Time, low: Time, high: Time, step: float) -> Array:
    """The slope of a path of images at a time, as a central difference over `step`, which takes no second-order terms.

    Its ends stay within [low, high], an interval around the time. Where that cuts one off, the difference is one-sided
    and over at least half of the step, unless the interval is shorter.

    Against the exact derivative along the path, on the prior that ships for Fashion-MNIST at three pairs of times, the
    relative error is .04 to .12 at step .1, .0004 to .0011 at .01 and .002 to .005 at 1e-4 with a network in float32.
    With one in bfloat16 (whose exact derivative errs by .01 to .02) it is .09 to .12 at .1, .4 to .9 at .01 and above 3
    at .001: take about .01 in float32, and at least .1 or exact derivatives in bfloat16.
    """
    before, after = jnp.maximum(time - step / 2, low), jnp.minimum(time + step / 2, high)
    change = path(after) - path(before)
    return change / expand(jnp.maximum(after - before, jnp.finfo(change.dtype).tiny), change)


def lagrangian(
    field: AverageField, x: Images, s: Time, t: Time, teacher: AverageField | None = None, step: float = 0.0
) -> tuple[Array, Array]:
    """d/dt X_{s,t}(x) and v(X_{s,t}(x), t, t).

    Args:
      teacher: in the place of the field in what is a target; the field itself unless given.
      step: over which a `difference` takes the place of the exact derivative along the path; 0: none. Here the
        derivative is what is trained, so both ends of the difference have a gradient, and the point between has none.
    """

    def end(t: Time) -> Array:
        return flow_map(field, x, s, t)

    target = held(field if teacher is None else teacher)
    if step:
        speed, reached = difference(end, t, s, 1.0, step), flow_map(held(field), x, s, t)
    else:
        reached, speed = jax.jvp(end, (t,), (jnp.ones_like(t),))
    return speed, target(jax.lax.stop_gradient(reached), t, t)


def semigroup(
    field: AverageField, x: Images, s: Time, u: Time, t: Time, teacher: AverageField | None = None
) -> tuple[Array, Array]:
    """v(x, s, t) and the mean velocity of the two jumps s -> u -> t, which the teacher takes, as in `lagrangian`."""
    target = held(field if teacher is None else teacher)
    first = target(x, s, u)
    second = target(x + expand(u - s, x) * first, u, t)
    share = expand((t - u) / jnp.maximum(t - s, jnp.finfo(x.dtype).tiny), x)
    return field(x, s, t), (1 - share) * first + share * second


def eulerian(
    field: AverageField,
    x: Images,
    s: Time,
    t: Time,
    velocity: Images,
    tangent: Images | None = None,
    teacher: AverageField | None = None,
    step: float = 0.0,
) -> tuple[Array, Array]:
    """v(x, s, t) and b + (t - s) (d/ds + b . grad) v with b = `velocity`, the instantaneous velocity at (x, s).

    Args:
      tangent: stands for the second b, the direction of the derivative; the velocity unless given.
      teacher, step: as in `lagrangian`; here the derivative is in the target, so a difference has no gradient.
    """
    direction = velocity if tangent is None else tangent

    def along(field: AverageField) -> tuple[Array, Array]:
        return jax.jvp(lambda x, s: field(x, s, t), (x, s), (direction, jnp.ones_like(s)))

    if teacher is None and not step:
        v, slope = along(field)
    else:
        v, target = field(x, s, t), held(field if teacher is None else teacher)
        slope = (
            difference(lambda r: target(x + expand(r - s, x) * direction, r, t), s, 0.0, t, step)
            if step
            else along(target)[1]
        )
    return v, velocity + expand(t - s, x) * slope
