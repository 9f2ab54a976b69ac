"""The floating-point type in which a field works, and numbers of other types brought to it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp.errors import InputError, translating
from fmdp.io.levels import without_mask

ARRAYS = (np.ndarray, np.generic, jax.Array)


def field_dtype(field: Any, x: Any = None) -> Any:
    """The type of the arrays that a field holds, at least float32.

    A field that holds none, such as a plain function, works in the type of x if that is float32 or float64, and
    otherwise in JAX's default type.
    """
    held = [_available(leaf.dtype) for leaf in jax.tree.leaves(field) if is_floating(leaf)]
    if not held and is_floating(x) and x.dtype.itemsize >= 4:
        held = [_available(x.dtype)]
    return jnp.result_type(jnp.float32, *held) if held else _available(float)


def _available(dtype: Any) -> Any:
    """What JAX makes of a type: of float64 float32, unless 64 bits are enabled, and of no byte order but the own."""
    if np.dtype(dtype).kind == "f":
        dtype = min(np.dtype(dtype).newbyteorder("="), np.dtype(float), key=lambda kind: kind.itemsize)
    return jax.dtypes.canonicalize_dtype(dtype)


def is_floating(value: Any) -> bool:
    """Whether it is an array of floating-point numbers; Python's own numbers have no type of their own."""
    return isinstance(value, ARRAYS) and jnp.issubdtype(value.dtype, jnp.floating)


def as_float(value: Any, dtype: Any = None, name: str = "y") -> Array:
    """Real numbers of any type, also in lists or numpy's arrays, as a JAX array of floating-point numbers.

    Args:
      dtype: by default that of the value, if it is float32 or float64, and otherwise JAX's default type.
      name: of the value, in messages.

    Raises:
      InputError: complex numbers, masked ones, or something that is not an array of numbers.
    """
    with translating(lambda why: f"{name} is not an array ({why}): pass one of real numbers", TypeError, ValueError):
        try:
            array = value if isinstance(value, ARRAYS) else np.asarray(value)
        except jax.errors.TracerArrayConversionError:  # a list of traced numbers
            array = jnp.asarray(value)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        parts = jnp.issubdtype(array.dtype, jnp.complexfloating) and name.isidentifier()
        example = f", such as jnp.stack([{name}.real, {name}.imag])" if parts else ""
        raise InputError(f"{name} holds {array.dtype}: pass real numbers{example}")
    if isinstance(array, np.ndarray):
        with translating(lambda why: f"{name}: {why}", InputError):
            array = without_mask(array)
    dtype = field_dtype(None, array) if dtype is None else dtype
    return array if isinstance(array, jax.Array) and array.dtype == dtype else jnp.asarray(array, dtype)


def in_type(tree: Any, dtype: Any) -> Any:
    """A pytree with its arrays of floating-point numbers in this type; what JAX takes as that type anyway is kept."""

    def convert(leaf):
        return jnp.asarray(leaf, dtype) if is_floating(leaf) and _available(leaf.dtype) != dtype else leaf

    return jax.tree.map(convert, tree)
