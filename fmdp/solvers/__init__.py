"""Solvers of inverse problems. Each is restore(field, observation, key, **options) -> (x, info), for one image.

Apply jax.vmap for a batch of observations and keys, and jax.jit around it; all options but those in STATIC can be
traced.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from fmdp.errors import require_known
from fmdp.solvers import d_flow, dps, flow_priors, flower, ot_ode, pnp, pnp_flow
from fmdp.solvers.base import DivergenceError, Info, raise_if_diverged

_MODULES: dict[str, Any] = dict(
    pnp=pnp, pnp_flow=pnp_flow, ot_ode=ot_ode, flow_priors=flow_priors, d_flow=d_flow, dps=dps, flower=flower
)
SOLVERS: dict[str, Callable] = {name: module.solve for name, module in _MODULES.items()}
"""The solvers by the names that a configuration uses."""

STATIC: dict[str, tuple[str, ...]] = {name: module.STATIC for name, module in _MODULES.items()}
"""The options of each solver that shape its program; all others can be traced as float32."""


def make(name: str, **options: Any) -> Callable:
    """The solver with its options bound: restore(field, observation, key) -> (x, info).

    Raises:
      InputError: an unknown solver or option.
    """
    require_known("unknown solver", name, SOLVERS)
    known = [p for p, spec in inspect.signature(SOLVERS[name]).parameters.items() if spec.kind is spec.KEYWORD_ONLY]
    for option in options:
        require_known(f"{name}: unknown option", option, known)
    return partial(SOLVERS[name], **options)


__all__ = ["SOLVERS", "STATIC", "DivergenceError", "Info", "make", "raise_if_diverged"]
