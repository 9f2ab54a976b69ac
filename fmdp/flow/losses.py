"""The training losses of an average field for one example: an image, its noise and its times in, one number out.

Every loss is a mean over pixels. The diagonal term is flow matching; the others ask the field to be the average
velocity of its own flow, each by one of the `identities` (Boffi et al., arXiv 2505.18825; MeanFlow, 2505.13447).
Targets are held fixed: no gradient passes through a teacher.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fmdp.flow import identities
from fmdp.flow.interpolant import conditional_velocity, interpolate
from fmdp.types import AverageField, Image, Scalar, Time


def mean_square(error: Image) -> Scalar:
    """The mean of the squares over height, width and channels."""
    return jnp.mean(jnp.square(error))


def diagonal(field: AverageField, x0: Image, x1: Image, t: Time) -> Scalar:
    """Flow matching: ||v(x_t, t, t) - (x1 - x0)||^2. Its minimiser is E[x1 - x0 | x_t], its minimum is not zero."""
    return mean_square(field(interpolate(x0, x1, t), t, t) - conditional_velocity(x0, x1))


def lagrangian(field: AverageField, x0: Image, x1: Image, s: Time, t: Time) -> Scalar:
    """Lagrangian self-distillation (LSD): ||d/dt X_{s,t}(x_s) - v(X_{s,t}(x_s), t, t)||^2, the second term fixed."""
    return _fixed_target(identities.lagrangian(field, interpolate(x0, x1, s), s, t))


def semigroup(field: AverageField, x0: Image, x1: Image, s: Time, u: Time, t: Time) -> Scalar:
    """Progressive self-distillation (PSD): v(x_s, s, t) against the two jumps s -> u -> t it stands for, held fixed."""
    return _fixed_target(identities.semigroup(field, interpolate(x0, x1, s), s, u, t))


def eulerian(field: AverageField, x0: Image, x1: Image, s: Time, t: Time, velocity: Image) -> Scalar:
    """||v - (b + (t - s) (d/ds + b . grad) v)||^2 at (x_s, s, t) with b = velocity, the bracket held fixed.

    Args:
      velocity: what stands for b(x_s, s): the conditional velocity x1 - x0, whose noise averages out (MeanFlow),
        or the field's own v(x_s, s, s) (Eulerian self-distillation, ESD).
    """
    return _fixed_target(identities.eulerian(field, interpolate(x0, x1, s), s, t, velocity))


def _fixed_target(sides: tuple[Image, Image]) -> Scalar:
    """The mean square of the difference of an identity's two sides, without a gradient through the second."""
    side, target = sides
    return mean_square(side - jax.lax.stop_gradient(target))


def self_velocity(field: AverageField, x0: Image, x1: Image, s: Time) -> Image:
    """The field's own instantaneous velocity v(x_s, s, s), held fixed."""
    return identities.held(field)(interpolate(x0, x1, s), s, s)


OFF_DIAGONAL: dict[str, Callable[[AverageField, Image, Image, Time, Time, Time], Scalar]] = {
    "lagrangian": lambda field, x0, x1, s, u, t: lagrangian(field, x0, x1, s, t),
    "semigroup": semigroup,
    "eulerian": lambda field, x0, x1, s, u, t: eulerian(field, x0, x1, s, t, self_velocity(field, x0, x1, s)),
    "meanflow": lambda field, x0, x1, s, u, t: eulerian(field, x0, x1, s, t, conditional_velocity(x0, x1)),
}
"""The off-diagonal terms by the names that a configuration uses, as functions of s <= u <= t."""

WEIGHTING = ("none", "learned")


def weigh(loss: Scalar, log_variance: Scalar, bound: float) -> Scalar:
    """exp(-w) loss + w with w = bound tanh(log_variance / bound): the loss weighted by its own learned variance.

    At the optimum w = log loss, all times have the same weight. The bound keeps a w that learns too fast from
    switching a term off.
    """
    w = bound * jnp.tanh(log_variance / bound)
    return jnp.exp(-w) * loss + w
