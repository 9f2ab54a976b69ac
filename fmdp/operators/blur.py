"""Blurs that do not factor into rows and columns: motion blur along a random trajectory, or a given kernel."""

import math
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError, Range
from fmdp.operators.base import Operator, operator, static
from fmdp.types import PRNGKey, Scalar

Boundary = Literal["reflect", "circular"]


@operator
class Blur(Operator):
    """Correlation with the kernel [k, l] of odd sizes; the image is mirrored at its borders, or periodic."""

    kernel: Any
    image_shape: Any = static()
    name: Any = static(default="motion_blur")
    boundary: Any = static(default="reflect")

    def measure(self, x):
        """The blurred image, of the shape of x. By FFT: a direct 61x61 correlation costs ten times more."""
        height, width, _ = x.shape
        rows, columns = self.kernel.shape
        top, left = rows // 2, columns // 2
        x = jnp.pad(x, ((top, top), (left, left), (0, 0)), mode="reflect" if self.boundary == "reflect" else "wrap")
        size = x.shape[:2]
        spectrum = jnp.conj(jnp.fft.rfft2(self.kernel, size))[..., None] * jnp.fft.rfft2(x, axes=(0, 1))
        return jnp.fft.irfft2(spectrum, size, axes=(0, 1))[:height, :width]


def motion_blur(
    image_shape,
    key,
    kernel_size: int = 61,
    intensity: Annotated[float, Range(0, 1)] = 0.5,
    kernel: ArrayLike | None = None,
    boundary: Boundary = "reflect",
    psf: ArrayLike | None = None,
    normalize: bool = False,
) -> Operator:
    """Correlation with a random motion kernel drawn from the key or with a given kernel, or convolution with a PSF.

    Args:
      kernel_size: odd, of any size: the trajectory always lies inside.
      intensity: how much the motion turns, from 0 (a straight line) to 1 (a scribble).
      kernel: [k, l] of odd sizes, with which the image is correlated, as with `scipy.ndimage.correlate`. It should sum
        to one, but is used as it is.
      boundary: "reflect", about the centres of the border pixels, which are not repeated (numpy's "reflect", scipy's
        "mirror"), or "circular" (numpy's and scipy's "wrap").
      psf: instead of a kernel, the image [k, l] of a point, with which the image is convolved, as with
        `scipy.signal.convolve2d(x, psf, "same", "wrap")` for the boundary "circular". It has to sum to one.
      normalize: whether the kernel or the PSF is divided by its sum first.
    """
    if kernel is not None and psf is not None:
        raise InputError(
            "motion_blur: kernel and psf are given, of which one is the other turned by 180 degrees: keep one"
        )
    name, given = ("kernel", kernel) if psf is None else ("psf", psf)
    sizes = (kernel_size, kernel_size) if given is None else np.shape(given)
    if len(sizes) != 2:
        raise InputError(f"motion_blur: the {name} has shape {sizes}: pass one matrix for all channels")
    check_kernel("motion_blur", sizes, image_shape)
    matrix = motion_kernel(key, kernel_size, intensity) if given is None else _given_kernel(name, given, normalize)
    return Blur(kernel=matrix[::-1, ::-1] if psf is not None else matrix, image_shape=image_shape, boundary=boundary)


SUM_TOLERANCE = 0.01
"""By how much the sum of a kernel may differ from one before that is said."""


def _given_kernel(name: str, given: ArrayLike, normalize: bool) -> Array:
    """A kernel or PSF [k, l], divided by its sum if asked for; its values are checked unless they are traced."""
    if not isinstance(given, jax.core.Tracer):
        total = float(np.sum(np.asarray(given, float)))
        if not np.any(given):
            raise InputError(f"motion_blur: the {name} is all zero: pass one that sums to one")
        if normalize and abs(total) < 1e-6 * float(np.sum(np.abs(np.asarray(given, float)))):
            raise InputError(
                f"motion_blur: the {name} sums to {total:.3g}, which cannot be made 1: leave normalize out"
            )
        if name == "psf" and not normalize and abs(total - 1) > SUM_TOLERANCE:
            remedy = "pass normalize=True to divide by it, or kernel=psf[::-1, ::-1] to keep the sum"
            raise InputError(f"motion_blur: the psf sums to {total:.4g}, not to 1: {remedy}")
    matrix = jnp.asarray(given, float)
    return matrix / matrix.sum() if normalize else matrix


@partial(jax.jit, static_argnames=("size", "points"))
def motion_kernel(key: PRNGKey, size: int, intensity: float | Scalar = 0.5, points: int = 256) -> Array:
    """A trajectory drawn from the key, splatted bilinearly on [size, size]; nonnegative, with sum one.

    Its direction is a random walk with velocity. It is centred and scaled to fill between half and all of the kernel.
    """
    # In float32 also where 64 bits are enabled, so that the kernel is the same.
    uniform, normal = partial(jax.random.uniform, dtype=jnp.float32), partial(jax.random.normal, dtype=jnp.float32)
    heading, turn, extent = jax.random.split(key, 3)
    turning = jnp.cumsum(normal(turn, (points,))) / math.sqrt(points)
    angle = 2 * jnp.pi * uniform(heading) + 2 * jnp.pi * intensity * turning
    path = jnp.cumsum(jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1), 0)
    path -= (path.min(0) + path.max(0)) / 2
    reach = (size - 1) / 2 * uniform(extent, minval=0.5)
    path = (size - 1) / 2 + path * reach / jnp.abs(path).max()
    tent = jnp.maximum(1 - jnp.abs(path[..., None] - jnp.arange(size)), 0)  # [points, 2, size]
    return jnp.einsum("pi,pj->ij", tent[:, 0], tent[:, 1], precision="highest") / points


def check_kernel(name: str, sizes: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
    """Raises InputError unless the kernel's sizes are odd, so that it has a centre, and half of it fits the image."""
    for size, side in zip(sizes, image_shape, strict=False):
        if size % 2 == 0 or not 0 < size < 2 * side:
            raise InputError(f"{name}: kernel size {size}: pass an odd number from 1 to {2 * side - 1}")
