"""Solvers of inverse problems. Each is restore(field, observation, key, **options) -> (x, info), for one image.

vmap them over a batch of observations and keys, and jit the whole; every option that is a number is data for jit.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from fmdp.errors import InputError
from fmdp.operators.registry import did_you_mean
from fmdp.solvers import d_flow, dps, flow_priors, flower, ot_ode, pnp, pnp_flow
from fmdp.solvers.base import DivergenceError, Info, raise_if_diverged

SOLVERS: dict[str, Callable] = dict(
    pnp=pnp.solve,
    pnp_flow=pnp_flow.solve,
    ot_ode=ot_ode.solve,
    flow_priors=flow_priors.solve,
    d_flow=d_flow.solve,
    dps=dps.solve,
    flower=flower.solve,
)
"""The solvers by the names that a configuration uses."""


def make(name: str, **options: Any) -> Callable:
    """restore(field, observation, key) -> (x, info) of that solver, with its options bound.

    Raises:
      InputError: an unknown solver or option.
    """
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}{did_you_mean(name, SOLVERS)}; known: {', '.join(SOLVERS)}")
    known = [p for p, spec in inspect.signature(SOLVERS[name]).parameters.items() if spec.kind is spec.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise InputError(
                f"{name}: unknown option {option!r}{did_you_mean(option, known)}; known: {', '.join(known)}"
            )
    return partial(SOLVERS[name], **options)


__all__ = ["SOLVERS", "DivergenceError", "Info", "make", "raise_if_diverged"]
