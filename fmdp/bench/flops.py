"""The cost of a program, read from the program: its convolutions and matrix products, and its planned memory."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

from fmdp.errors import InputError

PRODUCTS = ("conv_general_dilated", "dot_general")
CHAIN = 1e-30  # factor of a number of the previous output; negligible, but the compiler cannot know that


def product_equations(function: Callable, *args: Any) -> list[core.JaxprEqn]:
    """Every convolution and matrix product of a function in order, repeated as often as it runs.

    The body of a `while` counts once, because its number of iterations is unknown.
    """
    return list(_walk(jax.make_jaxpr(function)(*args).jaxpr))


def _walk(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for _ in range(times):
            for inner in _inner(equation.params.values()):
                yield from _walk(inner)


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


def product_flops(function: Callable, *args: Any) -> float:
    """Floating-point operations of all products that a function runs. Nothing is compiled."""
    equations = product_equations(function, *args)
    return flops(jax.jit(_chained(equations)).lower(_shapes(equations)))


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


def flops(program: jax.stages.Lowered | jax.stages.Compiled) -> float:
    """Floating-point operations of one run of a program on one device; a loop counts as one iteration."""
    return float((program.cost_analysis() or {}).get("flops", 0.0))
