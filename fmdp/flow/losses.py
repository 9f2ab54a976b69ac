"""The training losses of an average field for one example: an image, its noise and its times in, one number out.

Every loss is a mean over pixels. The diagonal term is flow matching; the others ask the field to be the average
velocity of its own flow, each by one of the `identities` (Boffi et al., arXiv 2505.18825; MeanFlow, 2505.13447;
improved MeanFlow, 2512.02012).
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


def lagrangian(
    field: AverageField,
    x0: Image,
    x1: Image,
    s: Time,
    t: Time,
    teacher: AverageField | None = None,
    step: float = 0.0,
) -> Scalar:
    """Lagrangian self-distillation (LSD): ||d/dt X_{s,t}(x_s) - v(X_{s,t}(x_s), t, t)||^2, the second term fixed."""
    return _fixed_target(identities.lagrangian(field, interpolate(x0, x1, s), s, t, teacher, step))


def semigroup(
    field: AverageField, x0: Image, x1: Image, s: Time, u: Time, t: Time, teacher: AverageField | None = None
) -> Scalar:
    """Progressive self-distillation (PSD): v(x_s, s, t) against the two jumps s -> u -> t it stands for, held fixed."""
    return _fixed_target(identities.semigroup(field, interpolate(x0, x1, s), s, u, t, teacher))


def eulerian(
    field: AverageField,
    x0: Image,
    x1: Image,
    s: Time,
    t: Time,
    teacher: AverageField | None = None,
    step: float = 0.0,
) -> Scalar:
    """Eulerian self-distillation (ESD): ||v - (b + (t - s) (d/ds + b . grad) v)||^2 at (x_s, s, t), the bracket fixed.

    b is the field's own velocity v(x_s, s, s).
    """
    own = self_velocity(teacher or field, x0, x1, s)
    return _fixed_target(identities.eulerian(field, interpolate(x0, x1, s), s, t, own, own, teacher, step))


def meanflow(
    field: AverageField,
    x0: Image,
    x1: Image,
    s: Time,
    t: Time,
    teacher: AverageField | None = None,
    step: float = 0.0,
) -> Scalar:
    """MeanFlow: as `eulerian`, with the conditional velocity x1 - x0 for both b; its noise averages out."""
    velocity = conditional_velocity(x0, x1)
    return _fixed_target(identities.eulerian(field, interpolate(x0, x1, s), s, t, velocity, velocity, teacher, step))


def improved_meanflow(
    field: AverageField,
    x0: Image,
    x1: Image,
    s: Time,
    t: Time,
    teacher: AverageField | None = None,
    step: float = 0.0,
) -> Scalar:
    """Improved MeanFlow: as `meanflow`, but the derivative is along the field's own velocity v(x_s, s, s), held fixed.

    Only the first b is the conditional velocity, so the noise of x1 - x0 is not multiplied by the gradient of the
    field (Geng et al., arXiv 2512.02012, equation 12; their v - b there is the difference of the two sides here). On
    the diagonal, and in the mean over x1 - x0 given x_s, it asks for the same field as MeanFlow.
    """
    velocity, own = conditional_velocity(x0, x1), self_velocity(teacher or field, x0, x1, s)
    return _fixed_target(identities.eulerian(field, interpolate(x0, x1, s), s, t, velocity, own, teacher, step))


def _fixed_target(sides: tuple[Image, Image]) -> Scalar:
    """The mean square of the difference of an identity's two sides, without a gradient through the second."""
    side, target = sides
    return mean_square(side - jax.lax.stop_gradient(target))


def self_velocity(field: AverageField, x0: Image, x1: Image, s: Time) -> Image:
    """The field's own instantaneous velocity v(x_s, s, s), held fixed."""
    return identities.held(field)(interpolate(x0, x1, s), s, s)


def _without_middle(loss: Callable[..., Scalar]) -> Callable[..., Scalar]:
    """A loss that needs no time u between s and t, as a function that is given one."""
    return lambda field, x0, x1, s, u, t, *how: loss(field, x0, x1, s, t, *how)


OFF_DIAGONAL: dict[str, Callable[..., Scalar]] = {
    "lagrangian": _without_middle(lagrangian),
    "semigroup": lambda field, x0, x1, s, u, t, teacher=None, step=0.0: semigroup(field, x0, x1, s, u, t, teacher),
    "eulerian": _without_middle(eulerian),
    "meanflow": _without_middle(meanflow),
    "improved_meanflow": _without_middle(improved_meanflow),
}
"""The off-diagonal terms by the names that a configuration uses: (field, x0, x1, s, u, t, teacher, step).

The times are s <= u <= t. The last two may be left out; see `identities.lagrangian`. The semigroup identity has no
derivative, so it takes no step.
"""

ADAPTIVE_FLOOR = 1e-3  # of the loss in its adaptive weight, as in MeanFlow
WEIGHTING = ("none", "learned")


def adapt(loss: Scalar, power: float, huber: float) -> Scalar:
    """The loss of one example made robust: the pseudo-Huber of its root, then an adaptive weight.

    Args:
      loss: a mean square, 0 or more.
      power: p of the weight 1 / (loss + 1e-3)^p, through which no gradient passes (MeanFlow, arXiv 2505.13447, section
        4.3). 0 leaves the loss as it is; .5 is close to a root mean square, 1 has all examples count the same.
      huber: c of sqrt(loss + c^2) - c (improved consistency training, Song and Dhariwal, arXiv 2310.14189). Their loss
        is a sum over d numbers, so their c = .00054 sqrt(d) is .00054 here. 0 leaves the loss as it is.
    """
    if huber:
        loss = jnp.sqrt(loss + huber**2) - huber
    return loss / jax.lax.stop_gradient(loss + ADAPTIVE_FLOOR) ** power if power else loss


def weigh(loss: Scalar, log_variance: Scalar, bound: float) -> Scalar:
    """exp(-w) loss + w with w = bound tanh(log_variance / bound): the loss weighted by its own learned variance.

    At the optimum w = log loss, all times have the same weight. The bound keeps a w that learns too fast from
    switching a term off.
    """
    w = bound * jnp.tanh(log_variance / bound)
    return jnp.exp(-w) * loss + w
