"""Forward operators, which map one clean image to its measurement before noise.

Operators are pytrees with their arrays (masks, kernels) as leaves: jit accepts them, and vmap accepts batches of them.
Adjoints are never written by hand, but obtained from the operator by transposition or differentiation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from fmdp.errors import InputError, kind_fault, plain, require_key, translating
from fmdp.flow.dtypes import as_float
from fmdp.types import Image, Scalar

T = TypeVar("T")
ANY_ERROR = (Exception, InputError)  # InputError, too, is translated


def static(**options: Any) -> Any:
    """A static field of the pytree, such as a shape or a name."""
    return field(metadata=dict(static=True), **options)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(static,))
def operator(cls: type[T]) -> type[T]:
    """Class decorator: a frozen keyword-only dataclass that is a pytree."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True, kw_only=True, eq=False)(cls))


class Operator:
    """H, called on one image [H, W, C].

    Attributes:
      name: as in `operators.make`.
      image_shape: (H, W, C) of its input.
      linear: whether H(a x + b z) = a H(x) + b H(z).
    """

    name: Any
    image_shape: Any
    linear: Any = True

    def __call__(self, x: ArrayLike | Sequence) -> Array:
        """The noiseless measurement of x, real numbers of any type. Raises InputError unless it has `image_shape`."""
        x = as_float(x, name="x")
        if x.shape != self.image_shape:
            raise InputError(f"{self.name} takes images of shape {self.image_shape}, got {x.shape}: vmap over a batch")
        return self.measure(x)

    def surrogate(self, x: Image) -> Array:
        """A differentiable substitute for the measurement in likelihoods; by default the measurement itself."""
        return self(x)

    def measure(self, x: Array) -> Array:
        """The measurement, which subclasses define."""
        raise NotImplementedError

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the measurement of one image."""
        return _eval_shape(self, self.image_shape).shape


@operator
class Denoising(Operator):
    """The identity."""

    image_shape: Any = static()
    name: Any = static(default="denoising")

    def measure(self, x):
        """The image itself."""
        return x


@operator
class Custom(Operator):
    """Any JAX function of one image; see `from_function`."""

    function: Any
    image_shape: Any = static()
    name: Any = static()
    linear: Any = static()

    def measure(self, x):
        """The user's function of x."""
        return self.function(x)


def from_function(
    function: Callable[[Array], Array], image_shape: Sequence[int], *, linear: bool = False, name: str = "custom"
) -> Operator:
    """The operator that applies your own JAX function to one image.

    >>> rows = from_function(lambda x: x[::2], (8, 8, 1), linear=True, name="every_other_row")
    >>> rows(jnp.ones((8, 8, 1))).shape
    (4, 8, 1)
    >>> from_function(lambda x: x**2 + 1, (8, 8, 1), linear=True)
    Traceback (most recent call last):
    fmdp.errors.InputError: operator 'custom' has no transpose, it is not linear: pass linear=False

    Args:
      function: [H, W, C] -> array of real numbers with any shape. Arrays bound with `jax.tree_util.Partial(f, mask)`
        become leaves.
      linear: whether it is linear, as some solvers require; adjoints are then transposes.

    Raises:
      InputError: the function fails on such images or does not return real numbers, or it is declared linear but has no
        transpose or does not map zero to zero.
    """
    if not isinstance(function, jax.tree_util.Partial):
        function = jax.tree_util.Partial(function)
    image_shape = as_shape(name, image_shape)
    made = Custom(function=function, image_shape=image_shape, name=name, linear=linear)
    # The user's function may raise errors of any kind, also by returning something that is not an array.
    with translating(lambda why: f"operator {name!r} fails on images of shape {image_shape}: {why}", *ANY_ERROR):
        measured = _eval_shape(made, image_shape)
        shape, kind = measured.shape, measured.dtype
    if not jnp.issubdtype(kind, jnp.floating):
        remedy = "return real floating-point numbers, such as jnp.stack([y.real, y.imag])"
        raise InputError(f"operator {name!r} returns {kind}: {remedy}")
    if linear:
        wrong = f"operator {name!r} has no transpose, it is not linear: pass linear=False"
        with translating(lambda _: wrong, *ANY_ERROR):
            _eval_shape(partial(adjoint, made), shape)
        if jnp.any(made(jnp.zeros(image_shape)) != 0):
            raise InputError(f"operator {name!r} is not linear, it maps zero to something else: pass linear=False")
    return made


def _eval_shape(function: Callable[[Array], Array], shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """What the function makes of an array of this shape, without computing it.

    The lambda is new in each call, so JAX does not reuse the trace. A reused trace would hold numpy constants in 64
    bits and fail where a solver traces in 32.
    """
    return jax.eval_shape(lambda x: function(x), jax.ShapeDtypeStruct(shape, float))


def as_shape(owner: str, shape: Any) -> tuple[int, ...]:
    """The shape (H, W, C) of images as three numbers of Python. Raises InputError for anything else."""
    sides = tuple(map(plain, shape)) if isinstance(shape, list | tuple | np.ndarray) else ()
    if len(sides) != 3 or any(kind_fault(side, int) or side < 1 for side in sides):
        raise InputError(f"{owner}: image_shape={shape} must be (height, width, channels), whole numbers from 1")
    return sides


def adjoint(operator: Operator, y: ArrayLike | Sequence, at: ArrayLike | Sequence | None = None) -> Image:
    """H'y [H, W, C]; for a nonlinear operator J(x)'y, with J the derivative of its surrogate at the image `at`.

    Args:
      y: real numbers of any type. The result has their type if it is float32 or float64, otherwise JAX's default one.
      at: [H, W, C].

    Raises:
      InputError: y is not a measurement by this operator, or the operator is nonlinear and `at` is missing.
    """
    y = as_float(y)
    require_measurement(operator, y)
    if operator.linear:
        image = jax.ShapeDtypeStruct(operator.image_shape, y.dtype)
        (x,) = jax.linear_transpose(lambda x: operator(x).astype(y.dtype), image)(y)
        return x
    point = as_float(_point(operator, at), y.dtype, "at")
    (x,) = jax.vjp(lambda x: operator.surrogate(x).astype(y.dtype), point)[1](y)
    return x


def require_measurement(operator: Operator, y: Any) -> None:
    """Raises InputError if y does not have the shape of what the operator measures of one image."""
    if np.shape(y) != operator.output_shape:
        measured = f"{operator.name} of an image {operator.image_shape} measures {operator.output_shape}"
        raise InputError(f"y has shape {np.shape(y)} but {measured}: pass one measurement, and vmap over a batch")


def norm(operator: Operator, key: Any, steps: int = 100, at: Image | None = None) -> Scalar:
    """The largest singular value of H, or of its derivative at the image `at`, by power iteration on H'H.

    The result is a lower bound. Each step applies H and H' once.
    """
    require_key("the power iteration begins at random", key)
    forward: Callable[[Array], Array] = operator
    if not operator.linear:
        forward = partial(lambda x, v: jax.jvp(operator.surrogate, (x,), (v,))[1], _point(operator, at))

    def step(x, _):
        z = adjoint(operator, forward(x), at)
        size = jnp.linalg.norm(z)
        return z / jnp.maximum(size, jnp.finfo(z.dtype).tiny), size

    x = jax.random.normal(key, operator.image_shape)
    return jnp.sqrt(jax.lax.scan(step, x / jnp.linalg.norm(x), length=steps)[1][-1])


def _point(operator: Operator, at: Any) -> Any:
    if at is None:
        raise InputError(f"{operator.name} is not linear: pass the image `at` which to differentiate it")
    return at
