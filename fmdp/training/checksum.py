"""A checksum of every array of a state, by which a damaged checkpoint is told from a whole one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

ODD = 2_654_435_761  # 2^32 over the golden ratio


def checksums(tree: Any) -> list[int]:
    """One number below 2^32 for every array of a tree, the same however the array is sharded.

    The sum over its 32-bit words, each times an odd number of its place, modulo 2^32: any single word that changes
    changes it, and so does a change of places.
    """
    return [int(x) for x in jax.device_get(_checksums(jax.tree.leaves(tree)))]


@jax.jit
def _checksums(leaves: list[Array]) -> list[Array]:
    return [_sum(_words(x)) for x in leaves]


def _words(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype.itemsize == 4:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)
    kind = {1: jnp.uint8, 2: jnp.uint16}[x.dtype.itemsize]
    return (x if x.dtype == bool else jax.lax.bitcast_convert_type(x, kind)).astype(jnp.uint32)


def _sum(words: Array) -> Array:
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):  # no reshape, so that every device keeps its shard
        place = place * jnp.uint32(size % 2**32) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words * (place * jnp.uint32(ODD) * jnp.uint32(2) + jnp.uint32(1)), dtype=jnp.uint32)
