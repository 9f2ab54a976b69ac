"""Solvers of inverse problems. Each is restore(field, observation, key, **options) -> (x, info), for one image.

vmap them over a batch of observations and keys, and jit the whole; every option that is a number is data for jit.
"""

from collections.abc import Callable

from fmdp.solvers import d_flow, dps, flow_priors, flower, ot_ode, pnp, pnp_flow
from fmdp.solvers.trace import DivergenceError, Info, check

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

__all__ = ["SOLVERS", "DivergenceError", "Info", "check"]
