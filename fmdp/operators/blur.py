"""Blurs that do not factor into rows and columns: motion blur along a random trajectory, or a given kernel."""

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
) -> Operator:
    """Correlation with a random motion kernel drawn from the key, or with a given kernel.

    Args:
      kernel_size: odd, of any size: the trajectory always lies inside.
      intensity: how much the motion turns, from 0 (a straight line) to 1 (a scribble).
      kernel: [k, l] of odd sizes, used as it is; it should sum to one.
      boundary: "reflect" or "circular".
    """
    sizes = (kernel_size, kernel_size) if kernel is None else np.shape(kernel)
    if len(sizes) != 2:
        raise InputError(f"motion_blur: the kernel has shape {sizes}: pass one matrix for all channels")
    check_kernel("motion_blur", sizes, image_shape)
    matrix = motion_kernel(key, kernel_size, intensity) if kernel is None else jnp.asarray(kernel, float)
    if kernel is not None and not isinstance(kernel, jax.core.Tracer) and not np.any(kernel):
        raise InputError("motion_blur: the kernel is all zero: pass one that sums to one")
    return Blur(kernel=matrix, image_shape=image_shape, boundary=boundary)


@partial(jax.jit, static_argnames=("size", "points"))
def motion_kernel(key: PRNGKey, size: int, intensity: float | Scalar = 0.5, points: int = 256) -> Array:
    """A trajectory drawn from the key, splatted bilinearly on [size, size]; nonnegative, with sum one.

    Its direction is a random walk with velocity. It is centred and scaled to fill between half and all of the kernel.
    """
    heading, turn, extent = jax.random.split(key, 3)
    turning = jnp.cumsum(jax.random.normal(turn, (points,))) / np.sqrt(points)
    angle = 2 * jnp.pi * jax.random.uniform(heading) + 2 * jnp.pi * intensity * turning
    path = jnp.cumsum(jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1), 0)
    path -= (path.min(0) + path.max(0)) / 2
    reach = (size - 1) / 2 * jax.random.uniform(extent, minval=0.5)
    path = (size - 1) / 2 + path * reach / jnp.abs(path).max()
    tent = jnp.maximum(1 - jnp.abs(path[..., None] - jnp.arange(size)), 0)  # [points, 2, size]
    return jnp.einsum("pi,pj->ij", tent[:, 0], tent[:, 1], precision="highest") / points


def check_kernel(name: str, sizes: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
    """Raises InputError unless the kernel's sizes are odd, so that it has a centre, and half of it fits the image."""
    for size, side in zip(sizes, image_shape, strict=False):
        if size % 2 == 0 or not 0 < size < 2 * side:
            raise InputError(f"{name}: kernel size {size}: pass an odd number from 1 to {2 * side - 1}")
