"""The cost of a program, read from the program: its convolutions and matrix products, and its planned memory."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core

from fmdp.errors import InputError

PRODUCTS = ("conv_general_dilated", "dot_general")
CHAIN = 1e-30  # factor of a number of the previous output; negligible, but the compiler cannot know that


def product_equations(function: Callable, *args: Any) -> list[core.JaxprEqn]:
    """Every convolution and matrix product of a function in order, repeated as often as it runs.

    The body of a `while` counts once, because its number of iterations is unknown. Of the branches of a `cond` the one
    with the most arithmetic counts. The body of a `shard_map` counts for every device.
    """
    return list(_walk(jax.make_jaxpr(function)(*args).jaxpr))


def product_flops(function: Callable, *args: Any) -> float:
    """Floating-point operations of the products that a function runs, on all devices together.

    They are counted from shapes (`equation_flops`), by the rules of `product_equations`. Nothing is compiled, so the
    count is the same for every backend. Elementwise operations and sums do not count.
    """
    return float(_flops(jax.make_jaxpr(function)(*args).jaxpr))


def equation_flops(equation: core.JaxprEqn) -> int:
    """Floating-point operations of one convolution or matrix product: two for each multiplication with its addition.

    A multiplication with padding, or with a zero that dilation inserts, does not count. XLA's `cost_analysis` follows
    the same rules.
    """
    left, right = (variable.aval.shape for variable in equation.invars)  # type: ignore[attr-defined]
    (out,) = (variable.aval.shape for variable in equation.outvars)  # type: ignore[attr-defined]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    batch, _, *spatial = equation.params["dimension_numbers"].lhs_spec
    features, features_of_group, *window = equation.params["dimension_numbers"].rhs_spec
    positions = equation.params["dimension_numbers"].out_spec[2:]
    settings = (equation.params[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"))
    taps = math.prod(
        _taps(left[i], right[j], out[k], stride, low, spread, step)
        for i, j, k, stride, (low, _), spread, step in zip(spatial, window, positions, *settings, strict=True)
    )
    images = left[batch] // equation.params["batch_group_count"]
    return 2 * images * right[features] * right[features_of_group] * taps


def _taps(size: int, window: int, positions: int, stride: int, low: int, spread: int, step: int) -> int:
    """How often, along one axis, a number of the window meets a number of the input rather than a zero between them."""
    met = stride * np.arange(positions)[:, None] + step * np.arange(window) - low
    return int(np.sum((met >= 0) & (met < size * spread) & (met % spread == 0)))


def _walk(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        bodies = _bodies(equation)
        for _ in range(_repeats(equation) if bodies else 0):
            for inner in bodies:
                yield from _walk(inner)


def _flops(jaxpr: core.Jaxpr) -> int:
    own = sum(equation_flops(equation) for equation in jaxpr.eqns if equation.primitive.name in PRODUCTS)
    return own + sum(_repeats(equation) * sum(map(_flops, _bodies(equation))) for equation in jaxpr.eqns)


def _repeats(equation: core.JaxprEqn) -> int:
    """How often what is inside an equation runs."""
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "shard_map":
        axes = equation.params.get("newly_manual_axes", equation.params["mesh"].axis_names)
        return math.prod(equation.params["mesh"].shape[axis] for axis in axes)
    return 1


def _bodies(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    inner = list(_inner(equation.params.values()))
    return [max(inner, key=_flops)] if equation.primitive.name == "cond" else inner


def _inner(values) -> Iterator[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)


def chain(equations: list[core.JaxprEqn], key: Array) -> tuple[Callable[[Any], Array], list[tuple[Array, ...]]]:
    """The products of a program alone, chained so that each waits for the previous one.

    Returns:
      A function of operands, to be compiled, and random operands of the right shapes and types.
    """
    operands = []
    for i, shaped in enumerate(_shapes(equations)):
        keys = jax.random.split(jax.random.fold_in(key, i))
        operands.append(tuple(jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, shaped, strict=True)))
    return _chained(equations), operands


def _shapes(equations: list[core.JaxprEqn]) -> list[tuple[jax.ShapeDtypeStruct, ...]]:
    shaped: list[list[Any]] = [[variable.aval for variable in equation.invars] for equation in equations]
    return [tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in pair) for pair in shaped]


def _chained(equations: list[core.JaxprEqn]) -> Callable[[Any], Array]:
    def run(operands):
        link = jnp.zeros((), jnp.float32)
        for equation, (left, right) in zip(equations, operands, strict=True):
            if left.size < right.size:  # the smaller operand waits, which costs least
                left = left + link.astype(left.dtype)
            else:
                right = right + link.astype(right.dtype)
            (out,) = [equation.primitive.bind(left, right, **equation.params)]
            link = CHAIN * lax.slice(out, (0,) * out.ndim, (1,) * out.ndim).reshape(()).astype(jnp.float32)
        return link

    return run


def planned_bytes(compiled: jax.stages.Compiled) -> int:
    """The largest number of bytes that a compiled program uses on one device, its arguments included.

    Raises:
      InputError: the backend does not report it.
    """
    plan = compiled.memory_analysis()
    if plan is None:
        raise InputError(f"the {jax.default_backend()} backend does not report the memory of a program")
    return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
