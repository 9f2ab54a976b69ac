"""The limit of plug-and-play with a lookahead denoiser, for a Gaussian target and a linear operator, in closed form.

One step from x at fixed (s, t) on 1/2 ||H x - y||^2 is

    z = x - gamma H'(H x - y),   x <- D_{s,t}(s z + (1 - s) eps).

Without renoising (eps = 0) it converges to one image, a Tikhonov solution with less shrinkage for larger t. With
renoising, x converges only in distribution, to a Gaussian around that image.
"""

import numpy as np
import scipy.linalg
from jax.typing import ArrayLike

from fmdp.errors import InputError
from fmdp.exact.gaussian import Gaussian


def fixed_point(target: Gaussian, H: ArrayLike, y: ArrayLike, s: float, t: float, gamma: float) -> np.ndarray:
    """x* = mu + (M^-1 - I + gamma H'H)^-1 gamma H'(y - H mu), M = s L(s, t): the limit [H, W, C] without renoising.

    Args:
      H: [m, n], the operator on flattened images.
      y: [m], the measurement.
      s, t: the times of the denoiser, 0 <= s <= t <= 1.
      gamma: step size > 0.

    Raises:
      InputError: shapes do not fit, or the step is so large that the iteration diverges.
    """
    H, y, mean = np.asarray(H, np.float64), np.asarray(y, np.float64), np.asarray(target.mean)
    if H.ndim != 2 or H.shape != (y.size, mean.size):
        raise InputError(f"the operator has shape {H.shape}: for {y.size} measurements it must be {y.size, mean.size}")
    step, shrink, _ = _iteration(target, H, s, t, gamma)
    drive = gamma * shrink @ H.T @ (y - H @ mean.ravel())
    # Multiplied by M, which is singular where the target has no variance.
    return mean + np.linalg.solve(np.eye(len(step)) - step, drive).reshape(mean.shape)


def stationary_covariance(target: Gaussian, H: ArrayLike, s: float, t: float, gamma: float) -> np.ndarray:
    """Covariance [n, n] of x under renoising: C = A C A' + (1 - s)^2 L^2, A = M (I - gamma H'H); its mean is x*.

    If H'H and Sigma commute, it is L^2 (1 - s)^2 (I - A^2)^-1. With H = 0 it is the prior covariance at t = 1, and at
    most half of it at t = s. Arguments and errors are those of `fixed_point`.
    """
    step, _, gain = _iteration(target, np.asarray(H, np.float64), s, t, gamma)
    return scipy.linalg.solve_discrete_lyapunov(step, (1 - s) ** 2 * gain @ gain.T)


def _iteration(target: Gaussian, H: np.ndarray, s: float, t: float, gamma: float):
    """The matrices A (one step), M (the denoiser on clean images) and L (on noisy ones)."""
    basis = np.eye(len(target.eigenvalues)) if target.basis is None else target.basis
    gain = basis * np.asarray(target.gain(s, t), np.float64) @ basis.T
    shrink = s * gain
    step = shrink @ (np.eye(len(gain)) - gamma * H.T @ H)
    radius = np.abs(np.linalg.eigvals(step)).max()
    if radius >= 1:
        raise InputError(f"step size {gamma:g} makes the iteration grow by {radius:.3g} a step: reduce it or s")
    return step, shrink, gain
