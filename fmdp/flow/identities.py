"""The three identities that make a field the average velocity of its own flow: each as its two sides, to be equal.

Training (`losses`) and measuring (`residuals`) compare the same two sides. Points x are [..., H, W, C] at time s; times
are scalars or of the leading shape of x, 0 <= s <= u <= t <= 1 (Boffi et al., arXiv 2505.18825). The second side is the
target of the first, so the fields that only it needs are evaluated without a derivative by their parameters.
"""

import jax
import jax.numpy as jnp
from jax import Array

from fmdp.flow.average_field import flow_map
from fmdp.flow.interpolant import expand
from fmdp.types import AverageField, Images, Time


def held(field: AverageField) -> AverageField:
    """The field with its parameters held fixed, where they are its leaves; this saves tracing their derivatives."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if isinstance(x, Array) else x, field)


def lagrangian(field: AverageField, x: Images, s: Time, t: Time) -> tuple[Array, Array]:
    """d/dt X_{s,t}(x) and v(X_{s,t}(x), t, t)."""
    end, speed = jax.jvp(lambda t: flow_map(field, x, s, t), (t,), (jnp.ones_like(t),))
    return speed, held(field)(jax.lax.stop_gradient(end), t, t)


def semigroup(field: AverageField, x: Images, s: Time, u: Time, t: Time) -> tuple[Array, Array]:
    """v(x, s, t) and the mean velocity of the two jumps s -> u -> t."""
    teacher = held(field)
    first = teacher(x, s, u)
    second = teacher(x + expand(u - s, x) * first, u, t)
    share = expand((t - u) / jnp.maximum(t - s, jnp.finfo(x.dtype).tiny), x)
    return field(x, s, t), (1 - share) * first + share * second


def eulerian(
    field: AverageField, x: Images, s: Time, t: Time, velocity: Images, tangent: Images | None = None
) -> tuple[Array, Array]:
    """v(x, s, t) and b + (t - s) (d/ds + b . grad) v with b = `velocity`, the instantaneous velocity at (x, s).

    Args:
      tangent: stands for the second b, the direction of the derivative; the velocity unless given.
    """
    direction = velocity if tangent is None else tangent
    v, along_path = jax.jvp(lambda x, s: field(x, s, t), (x, s), (direction, jnp.ones_like(s)))
    return v, velocity + expand(t - s, x) * along_path
