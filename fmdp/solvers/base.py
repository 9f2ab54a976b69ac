"""What solvers share: the declaration of their options, the loop over their steps, and the report of a run."""

import contextlib
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.sparse.linalg import cg

from fmdp.errors import InputError, Range, kind_fault, plain, require_in_range, require_key, require_known
from fmdp.flow.dtypes import as_float, field_dtype, in_type
from fmdp.operators.base import Custom, Operator, adjoint, norm
from fmdp.operators.noise import Observation
from fmdp.types import AverageField, Image, PRNGKey, Scalar

MAX_ITERATIONS = 3000  # of one linear solve


class DivergenceError(ArithmeticError):
    """A restoration whose iterates stopped being finite."""


class Info(NamedTuple):
    """Report of one restoration; under vmap every entry gains the batch's axes.

    Attributes:
      residual: [steps], root mean square of y - H(x) after each step, on the [-1, 1] scale.
      evaluations: forward evaluations of the field.
      gradients: how many of them were also differentiated, at about twice the cost of a forward one on top.
      failed_step: the first step whose iterate is not finite, or -1 if all are finite.
      iterates: [steps, H, W, C], or None unless they were requested.
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
    """Repeats x <- step(x, input) over the leading axis of the inputs, and reports each step.

    Args:
      evaluations, gradients: of the field, over all steps.
      keep: whether to report all iterates.
      view: takes the image out of an iterate, where the iterate holds more than that.
    """

    def body(x, given):
        x = step(x, given)
        image = view(x)
        return x, (observation.residual(image), jnp.isfinite(image).all(), image if keep else None)

    x, (residual, finite, iterates) = jax.lax.scan(body, x, inputs)
    failed = jnp.where(finite.all(), -1, jnp.argmin(finite))
    return x, Info(residual, jnp.asarray(evaluations), jnp.asarray(gradients), failed, iterates)


def raise_if_diverged(info: Info, task: str, solver: str) -> None:
    """Raises DivergenceError, naming the earliest step, if an image or a batch has an iterate that is not finite."""
    failed = np.ravel(info.failed_step)
    if (failed >= 0).any():
        step = f"step {failed[failed >= 0].min()} of {np.shape(info.residual)[-1]}"
        images = f" in {(failed >= 0).sum()} of {failed.size} images" if failed.size > 1 else ""
        raise DivergenceError(f"{task}: {solver} diverged at {step}{images} (not finite): reduce its step size")


def solver(
    *,
    ranges: Mapping[str, Range],
    choices: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    linear: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a solver that declares what it accepts, and raises InputError for anything else.

    Args:
      ranges: of its options that are numbers, as `errors.require_in_range` checks them.
      choices: the values of its options that are names.
      linear: whether it needs a linear operator.
    """

    def declare(solve: Callable[..., Any]) -> Callable[..., Any]:
        name = solve.__module__.rpartition(".")[2]

        @wraps(solve)
        def checked(field: AverageField, observation: Observation, key: Any, **options: Any):
            observation.check_shape()
            require_key(f"{name} draws noise", key)
            if linear:
                require_linear(observation, name)
            options = _as_numbers(name, ranges, options)
            require_in_range(name, ranges, options)
            for option in choices.keys() & options.keys():
                require_known(f"{name}: unknown {option}", options[option], choices[option])
            dtype = field_dtype(field)
            options = _in_type(options, dtype)
            observation = observation.in_type(dtype)
            with _defaults_of(dtype):
                return solve(lambda x, s, t: as_float(field(x, s, t), dtype), observation, key, **options)

        return checked

    return declare


COUNTS = ("steps", "points", "inner", "noise_draws")


def _as_numbers(name: str, ranges: Mapping[str, Range], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with numbers of numpy as those of Python. Raises InputError where one that is a number is none."""
    options = {option: plain(value) for option, value in options.items()}
    for option in (ranges.keys() & options.keys()) - {"times"}:
        value = options[option]
        wanted = kind_fault(value, int) if option in COUNTS else "" if np.ndim(value) == 0 else "one number"
        if wanted or isinstance(value, complex | type(None)):
            raise InputError(f"{name}: {option}={' '.join(repr(value).split())[:60]}: pass {wanted or 'a real number'}")
    return options


def _in_type(options: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """The options with arrays in this type; images and times may also be lists."""
    given = [name for name in ("noise", "times") if options.get(name) is not None]
    return in_type(dict(options), dtype) | {name: as_float(options[name], dtype, name) for name in given}


def _defaults_of(dtype: Any) -> contextlib.AbstractContextManager:
    """With 64 bits enabled, a field of 32 bits still draws and computes as without, and so gives the same image."""
    return jax.enable_x64(False) if dtype == jnp.float32 else contextlib.nullcontext()


def starting_noise(name: str, noise: Array | None, shape: tuple[int, ...], key: PRNGKey) -> Image:
    """The noise given to the solver of this name, or drawn from the key. Raises InputError for another shape."""
    noise = jax.random.normal(key, shape) if noise is None else noise
    if noise.shape != shape:
        raise InputError(f"{name}: noise has shape {noise.shape}: pass (H, W, C) = {shape}")
    return noise


def operator_norm(operator: Operator, key: Any, at: Image | None = None, least: float = 1e-3) -> Scalar:
    """||H||, or that of the derivative at the image `at` but `least` at least, for solvers that divide by it.

    A linear operator that is small everywhere is one of another unit. A small derivative is that of one image.
    """
    size = norm(operator, key, 30, at)
    return jnp.where(size > 0, size, 1) if operator.linear else jnp.maximum(size, least)


def back_projection(observation: Observation, at: Image | None = None) -> Image:
    """H'W y / ||W^(1/2) H||^2, W the precisions relative to the largest: the same in all units of y.

    It is H'y where ||H|| = 1 and the noise has one level. A nonlinear H is replaced by its derivative at the image
    `at`, and norms below 1 count as 1: a small derivative, such as that of rounding, does not say how H scales images.
    """
    H = observation.operator
    white = Custom(
        function=lambda x: observation.whiten(H.surrogate(x)), image_shape=H.image_shape, name=H.name, linear=H.linear
    )
    back = adjoint(white, observation.whiten(observation.y), at)
    return back / operator_norm(white, jax.random.key(0), at, least=1.0) ** 2


def covariance_solver(observation: Observation, resolved: float = 0.0) -> Callable[[Scalar, Array], Array]:
    """(nu^2, r) -> (nu^2 H H' + sigma^2)^{-1} r, by conjugate gradients to a tolerance that float32 can resolve.

    They solve D (nu^2 H H' + sigma^2) D, with D = 1 / sqrt(nu^2 ||H||^2 + sigma^2) for each entry of y. Its eigenvalues
    are at most about 1 and at least sigma^2 / (nu^2 ||H||^2 + sigma^2) for the smallest sigma, in all units of y and
    for all maps of noise levels. Tolerance and iterations therefore follow the smallest sigma / (nu ||H||), and for all
    nu < 1 that of nu = 1.

    Args:
      resolved: what sigma^2 is at least, as a share of nu^2 ||H||^2.
    """
    H, variance = observation.operator, observation.noise.variance
    size = operator_norm(H, jax.random.key(0))
    least = jnp.sqrt(jnp.min(variance)) / size

    def solve(nu2, r):
        ratio = jnp.maximum(least / jnp.sqrt(jnp.maximum(nu2, 1)), resolved**0.5)
        tolerance = jnp.clip(1e-3 * ratio, 1e-7, 1e-5)  # relative, and no smaller than float32 can resolve
        iterations = jnp.clip(10 / ratio, 50, MAX_ITERATIONS).astype(int)
        reach = nu2 * size**2
        sigma2 = jnp.maximum(variance, resolved * reach)
        scale = jax.lax.rsqrt(reach + sigma2)

        def scaled(q):
            return scale * (nu2 * H(adjoint(H, scale * q)) + sigma2 * scale * q)

        return scale * cg(scaled, scale * r, tol=tolerance, maxiter=iterations)[0]

    return solve


def require_linear(observation: Observation, name: str) -> None:
    """Raises InputError for an operator that is not linear."""
    if not observation.operator.linear:
        raise InputError(f"{name} needs a linear operator, {observation.operator.name} is not: use pnp, dps or d_flow")
