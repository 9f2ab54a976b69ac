"""PnP-Flow (arXiv 2410.02423): plug-and-play with the minimum-error denoiser, averaged over renoisings."""

from functools import partial

from fmdp.solvers import pnp

STATIC = pnp.STATIC
solve = partial(pnp.solve, lookahead=0.0, exponent=0.5, gain=0.5, noise_draws=5)
"""`pnp.solve` at t = s. Gain 0.5 on ||y - H(x)||^2 is the published unit step on half of it."""
