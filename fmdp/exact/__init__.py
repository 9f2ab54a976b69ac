"""Targets whose fields are known exactly, as references for learned fields, solvers and metrics."""

from fmdp.exact.gaussian import Gaussian
from fmdp.exact.mixture import GaussianMixture
from fmdp.exact.pnp_stationary import fixed_point, stationary_covariance

__all__ = ["Gaussian", "GaussianMixture", "fixed_point", "stationary_covariance"]
