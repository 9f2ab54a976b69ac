"""Solvers of inverse problems. Each is restore(field, observation, key, **options) -> (x, info), for one image.

vmap them over a batch of observations and keys, and jit the whole; every option that is a number is data for jit.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from fmdp.errors import InputError
from fmdp.operators.registry import nearest
from fmdp.solvers import d_flow, dps, flow_priors, flower, ot_ode, pnp, pnp_flow
from fmdp.solvers.base import DivergenceError, Info, check

SOLVERS: dict[str, Callable] = dict(
    pnp=pnp.restore,
    pnp_flow=pnp_flow.restore,
    ot_ode=ot_ode.restore,
    flow_priors=flow_priors.restore,
    d_flow=d_flow.restore,
    dps=dps.restore,
    flower=flower.restore,
)
"""The solvers by the names that a configuration uses."""


def make(name: str, **options: Any) -> Callable:
    """restore(field, observation, key) -> (x, info) of that solver, with its options bound.

    Raises:
      InputError: an unknown solver or option.
    """
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}{nearest(name, SOLVERS)}; known: {', '.join(SOLVERS)}")
    known = [p for p, spec in inspect.signature(SOLVERS[name]).parameters.items() if spec.kind is spec.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise InputError(f"{name}: unknown option {option!r}{nearest(option, known)}; known: {', '.join(known)}")
    return partial(SOLVERS[name], **options)


__all__ = ["SOLVERS", "DivergenceError", "Info", "check", "make"]
