"""What the precision of products costs: the bound on each backend, and an emulation of other backends on any of them.

Tests marked `device` run with products at the highest precision, so the tolerances in them are those of float32 on
every backend. Only the tests of the default precision allow for what is here.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.extend.core import Literal

FRACTION_BITS = {"cpu": 23, "gpu": 10, "tpu": 7}
"""Bits of fraction that JAX's default precision leaves a factor: those of float32, TensorFloat-32 and bfloat16."""

PRODUCTS = ("dot_general", "conv_general_dilated")
CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call")


def factor_error(backend: str | None = None) -> float:
    """The largest relative error of a factor at the default precision: one unit of its last bit, if it is cut off."""
    return 2.0 ** -FRACTION_BITS[backend or jax.default_backend()]


def with_rounded_factors(function: Callable[..., Any], bits: int) -> Callable[..., Any]:
    """The function with both factors of every product and convolution rounded to so many bits of fraction.

    Loops and branches are refused, because the products in them would not be rounded.
    """

    def rounded(*args: Any) -> Any:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shape), _evaluate(program, jax.tree.leaves(args), bits))

    return rounded


def _evaluate(program: Any, inputs: list[Any], bits: int) -> list[Any]:
    jaxpr, known = program.jaxpr, {}
    known.update(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *inputs), strict=True))
    for eqn in jaxpr.eqns:
        values = [x.val if isinstance(x, Literal) else known[x] for x in eqn.invars]
        if eqn.primitive.name in PRODUCTS:
            values = [lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits) for x in values]
        if eqn.primitive.name in CALLS:
            outputs = _evaluate(eqn.params.get("jaxpr") or eqn.params["call_jaxpr"], values, bits)
        else:
            assert not any(hasattr(x, "jaxpr") for x in jax.tree.leaves(eqn.params)), eqn.primitive
            outputs = eqn.primitive.bind(*values, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [x.val if isinstance(x, Literal) else known[x] for x in jaxpr.outvars]
