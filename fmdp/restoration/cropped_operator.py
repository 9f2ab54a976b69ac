"""Operators on images in the middle of a larger canvas."""

from typing import Any

from fmdp.flow.tiling import Shape, crop
from fmdp.operators.base import Operator, operator, static


@operator
class Cropped(Operator):
    """An operator on the middle of a canvas; the pixels around it are not measured."""

    inner: Any
    image_shape: Any = static()
    name: Any = static()
    linear: Any = static()

    def measure(self, x):
        """The measurement of the middle."""
        return self.inner.measure(crop(x, self.inner.image_shape))

    def surrogate(self, x):
        """As `measure`, differentiably."""
        return self.inner.surrogate(crop(x, self.inner.image_shape))


def on_canvas(inner: Operator, canvas: Shape) -> Operator:
    """The operator for images of the shape of the canvas, of which it measures the middle, or all where it fits."""
    if inner.image_shape == canvas:
        return inner
    return Cropped(inner=inner, image_shape=canvas, name=inner.name, linear=inner.linear)
