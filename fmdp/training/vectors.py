"""A state of training with every copy of the network's parameters as one vector.

An optimizer works on each array by itself. A network has hundreds, so its update is a program of thousands of small
operations. On one vector per copy (the parameters, their gradient, average and moments) it is a few dozen.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array


class Layout(NamedTuple):
    """Where the arrays of a tree are in its vector: the structure of the tree and the shapes in its order."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]


@struct.dataclass
class Vector:
    """The arrays of a tree in one vector; as a pytree, its only leaf is that vector."""

    values: Any
    layout: Layout = struct.field(pytree_node=False)

    def tree(self, part: Callable[..., Array]) -> Any:
        """The tree that this vector holds, cut by `part` of (vector, start, shape)."""
        shapes = self.layout.shapes
        starts = itertools.accumulate(map(math.prod, shapes[:-1]), initial=0)
        return self.layout.structure.unflatten(map(partial(part, self.values), starts, shapes))


def _is_vector(node: Any) -> bool:
    return isinstance(node, Vector)


def as_vector(tree: Any) -> Vector:
    """A tree of arrays of one type as a vector."""
    leaves, structure = jax.tree.flatten(tree)
    return Vector(jnp.concatenate([x.ravel() for x in leaves]), Layout(structure, tuple(x.shape for x in leaves)))


@jax.jit
def pack(state: Any) -> Any:
    """A state of training with each copy of its network's parameters as a vector."""
    structure: Any = jax.tree.structure(state.params["network"])

    def is_copy(node: Any) -> bool:
        return bool(structure == jax.tree.structure(node))

    return jax.tree.map(lambda x: as_vector(x) if is_copy(x) else x, state, is_leaf=is_copy)


def unpack(tree: Any) -> Any:
    """A tree with its vectors as the trees that they hold; the inverse of `pack`, for use under jit."""
    return _unpack(tree, _fixed_part)


def take_apart(tree: Any) -> Any:
    """As `unpack`, for arrays outside of jit: programs are compiled for each shape, not for each place."""
    return _unpack(tree, _moving_part)


def pack_like(tree: Any, packed: Any) -> Any:
    """A tree in the form of another one: the same subtrees become vectors."""
    return jax.tree.map(lambda old, new: as_vector(new) if _is_vector(old) else new, packed, tree, is_leaf=_is_vector)


def _unpack(tree: Any, part: Callable[..., Array]) -> Any:
    return jax.tree.map(lambda x: x.tree(part) if _is_vector(x) else x, tree, is_leaf=_is_vector)


def _fixed_part(values: Array, start: int, shape: tuple[int, ...]) -> Array:
    return jax.lax.slice_in_dim(values, start, start + math.prod(shape)).reshape(shape)


@partial(jax.jit, static_argnums=2)
def _moving_part(values: Array, start: Any, shape: tuple[int, ...]) -> Array:
    return jax.lax.dynamic_slice_in_dim(values, start, math.prod(shape)).reshape(shape)
