"""What every solver reports of its run, and the loop that they share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.errors import InputError
from fmdp.operators.noise import Observation


class DivergenceError(ArithmeticError):
    """A restoration whose iterates stopped being finite."""


class Info(NamedTuple):
    """Report of one restoration; under vmap every entry gains the batch's axes.

    Attributes:
      residual: [steps], root mean square of y - H(x) after each step, on the [-1, 1] scale.
      evaluations: evaluations of the field, forward.
      gradients: how many of them were differentiated too, each about twice the cost of a forward one on top.
      failed_step: the first step whose iterate is not finite, -1 where all are.
      iterates: [steps, H, W, C], or None unless asked for.
    """

    residual: Array
    evaluations: Array
    gradients: Array
    failed_step: Array
    iterates: Array | None = None


def run_scan(
    step: Callable[[Any, Any], Any],
    x: Any,
    inputs: Any,
    observation: Observation,
    *,
    evaluations: Array | int,
    gradients: Array | int = 0,
    keep: bool = False,
    view: Callable[[Any], Array] = lambda x: x,
) -> tuple[Any, Info]:
    """Scans x <- step(x, input) over the leading axis of the inputs.

    Args:
      evaluations, gradients: of the field, in all steps together.
      keep: whether to report all iterates.
      view: the image in an iterate, where they are not the same.
    """

    def body(x, given):
        x = step(x, given)
        image = view(x)
        return x, (observation.residual(image), jnp.isfinite(image).all(), image if keep else None)

    x, (residual, finite, iterates) = jax.lax.scan(body, x, inputs)
    failed = jnp.where(finite.all(), -1, jnp.argmin(finite))
    return x, Info(residual, jnp.asarray(evaluations), jnp.asarray(gradients), failed, iterates)


def raise_if_diverged(info: Info, task: str, solver: str) -> None:
    """To be called on the finished report, of one image or of a batch.

    Raises:
      DivergenceError: an iterate is not finite; names task, solver, the earliest step and how many images.
    """
    failed = np.ravel(info.failed_step)
    if (failed >= 0).any():
        step, steps = failed[failed >= 0].min(), np.shape(info.residual)[-1]
        images = f" in {(failed >= 0).sum()} of {failed.size} images" if failed.size > 1 else ""
        raise DivergenceError(
            f"{task}: {solver} diverged at step {step} of {steps}{images} (not finite): reduce its step size"
        )


def require_linear(observation: Observation, solver: str) -> None:
    """Raises InputError for an operator that is not linear."""
    if not observation.operator.linear:
        raise InputError(
            f"{solver} needs a linear operator, {observation.operator.name} is not: use pnp, dps or d_flow"
        )


def require_choice(solver: str, option: str, value: str, known: tuple[str, ...]) -> None:
    """Raises InputError for a value that is not one of those known."""
    if value not in known:
        raise InputError(f"{solver}: {option}={value!r}: pass one of {', '.join(known)}")


def require_between(solver: str, low: int | float, high: int | float, **values: Any) -> None:
    """Raises InputError for a number known to lie outside [low, high]; those under tracing cannot be read."""
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer):
            continue
        if not np.all((low <= np.asarray(value)) & (np.asarray(value) <= high)):
            allowed = f"from {low:g} to {high:g}" if np.isfinite(high) else f"that is at least {low:g}"
            raise InputError(f"{solver}: {name}={value}: pass a number {allowed}")


def require_steps(solver: str, **counts: int) -> None:
    """Raises InputError for a count below one."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{solver}: {name}={count} must be at least 1")
