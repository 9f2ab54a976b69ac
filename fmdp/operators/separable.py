"""Operators that act on rows and columns separately, as two small matrices: Gaussian blur, antialiased downscaling."""

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from fmdp.errors import InputError, Range
from fmdp.operators.base import Operator, operator, static
from fmdp.operators.blur import Boundary, check_kernel

Std = Annotated[float, Range(1e-3, 1e3)]  # pixels; below there is no blur, above it a kernel is flat
Factor = Annotated[int, Range(1)]


@operator
class Separable(Operator):
    """y = R x C' in every channel, with R [h, H] and C [w, W]."""

    rows: Any
    columns: Any
    image_shape: Any = static()
    name: Any = static()

    def measure(self, x):
        """[h, w, C]."""
        return jnp.einsum("ij,jkc,lk->ilc", self.rows, x, self.columns, precision="highest")


@operator
class Decimation(Operator):
    """Every factor-th pixel, starting with the first."""

    factor: Any = static()
    image_shape: Any = static()
    name: Any = static(default="decimation")

    def measure(self, x):
        """[H / factor, W / factor, C]."""
        return x[:: self.factor, :: self.factor]


def gaussian_blur(image_shape, key, kernel_size: int, std: Std, boundary: Boundary = "reflect") -> Operator:
    """Correlation with a Gaussian of standard deviation `std` pixels, cut to an odd `kernel_size`.

    The kernel is scipy's `gaussian_filter` of a centred delta of that size, as in the published tasks: the part outside
    is folded back, so that it sums to one.
    """
    check_kernel("gaussian_blur", (kernel_size, kernel_size), image_shape)
    delta = np.eye(1, kernel_size, kernel_size // 2)[0]
    weights = scipy.ndimage.gaussian_filter1d(delta, std)

    def matrix(side):
        taps = np.arange(side)[:, None] + np.arange(kernel_size) - kernel_size // 2
        return _scatter(np.broadcast_to(weights, taps.shape), taps, side, "mirror" if boundary == "reflect" else "wrap")

    rows, columns = (jnp.asarray(matrix(side), float) for side in image_shape[:2])
    return Separable(rows=rows, columns=columns, image_shape=image_shape, name="gaussian_blur")


def super_resolution(image_shape, key, factor: Factor) -> Operator:
    """Antialiased bicubic downscaling (Keys' kernel, a = -1/2, widened by the factor), borders mirrored."""
    check_factor("super_resolution", image_shape, factor)

    def matrix(side):
        centres = (np.arange(side // factor) + 0.5) * factor - 0.5
        taps = np.floor(centres)[:, None].astype(int) + np.arange(-2 * factor, 2 * factor + 2)
        weights = _cubic((taps - centres[:, None]) / factor)
        return _scatter(weights / weights.sum(1, keepdims=True), taps, side, "half")

    rows, columns = (jnp.asarray(matrix(side), float) for side in image_shape[:2])
    return Separable(rows=rows, columns=columns, image_shape=image_shape, name="super_resolution")


def decimation(image_shape, key, factor: Factor) -> Operator:
    """Every factor-th pixel, without a filter: the super-resolution of PnP-Flow (arXiv 2410.02423)."""
    check_factor("decimation", image_shape, factor)
    return Decimation(factor=factor, image_shape=image_shape)


def check_factor(name: str, image_shape: tuple[int, ...], factor: int) -> None:
    """Raises InputError, with the size to pad to, where a side is not a multiple of the factor."""
    height, width = image_shape[:2]
    if height % factor or width % factor:
        padded = "x".join(str(-(-side // factor) * factor) for side in (height, width))
        raise InputError(f"{name}: {height}x{width} is not a multiple of {factor}: pad to {padded}")


def _cubic(u: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2 (IEEE TASSP 29, 1981, eq. 15)."""
    u = np.abs(u)
    return np.where(u <= 1, 1.5 * u**3 - 2.5 * u**2 + 1, np.where(u < 2, -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2, 0))


def _scatter(weights: np.ndarray, taps: np.ndarray, side: int, boundary: str) -> np.ndarray:
    """The matrix [outputs, side] of the weights, with taps outside brought back inside.

    By the boundary: "wrap", periodic; "mirror", about the centres of the border pixels; "half", about their edges.
    """
    period = dict(wrap=side, mirror=max(2 * side - 2, 1), half=2 * side)[boundary]
    taps = taps % period
    taps = np.where(taps < side, taps, period - (boundary == "half") - taps)
    matrix = np.zeros((len(taps), side))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)
    return matrix
