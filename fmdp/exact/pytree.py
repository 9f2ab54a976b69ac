"""Targets as pytrees."""

from collections.abc import Sequence
from typing import Any

import jax

from fmdp.errors import InputError


def refuse_tracing(owner: str, *arrays: Any) -> None:
    """Raises InputError for arrays without values: a target is decomposed by numpy when it is made."""
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        remedy = "make it outside, and pass it as an argument; noise levels of single images belong in GaussianNoise"
        raise InputError(f"{owner} cannot be made inside jit, vmap or grad: {remedy}")


def register_target(cls: type, arrays: Sequence[str], static: Sequence[str] = ()) -> None:
    """Makes a frozen dataclass a pytree with these attributes as leaves and as static fields.

    Copies are made without `__post_init__`: their values were checked before, and may be traced.
    """

    def flatten(target: Any) -> tuple[list, tuple]:
        return [getattr(target, name) for name in arrays], tuple(getattr(target, name) for name in static)

    def unflatten(fixed: tuple, leaves: Sequence) -> Any:
        target: Any = object.__new__(cls)
        for name, value in zip((*arrays, *static), (*leaves, *fixed), strict=True):
            object.__setattr__(target, name, value)
        return target

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)
