"""A state of training with every copy of the network's parameters as one vector.

An optimizer works on each array by itself. A network has hundreds, so its update is a program of thousands of small
operations. On one vector per copy (the parameters, their gradient, average and moments) it is a few dozen.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.flatten_util import ravel_pytree


def packing(network_params: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """The two functions `pack` and `unpack` for trees that hold copies of these parameters.

    Returns:
      pack: (tree) -> the tree with each subtree that has the structure of the parameters as one vector.
      unpack: (packed, tree) -> the packed tree in the structure of the other tree.
    """
    structure: Any = jax.tree.structure(network_params)
    _, unravel = ravel_pytree(network_params)

    def is_copy(node: Any) -> bool:
        return bool(structure == jax.tree.structure(node))

    def pack(tree: Any) -> Any:
        return jax.tree.map(lambda x: ravel_pytree(x)[0] if is_copy(x) else x, tree, is_leaf=is_copy)

    def unpack(packed: Any, tree: Any) -> Any:
        return jax.tree.map(lambda old, new: unravel(new) if is_copy(old) else new, tree, packed, is_leaf=is_copy)

    return pack, unpack
