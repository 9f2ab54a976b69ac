"""Halving and doubling of images by filters.

Resampling is a sum of a few shifted arrays. It is elementwise, so that XLA fuses it, unlike a depthwise convolution.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import Array, lax


def _pad(x: Array, width: int, axis: int) -> Array:
    """Zeros before and after x along this axis, `width` of each."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(width, width, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)])


def halve(x: Array, taps: Sequence[float], axis: int) -> Array:
    """y[i] = sum_k taps[k] x[2i + k - pad] along this axis, of even size, with pad = (len(taps) - 1) // 2."""
    size, pad = x.shape[axis], (len(taps) - 1) // 2
    x = _pad(x, pad, axis)
    terms = (tap * lax.slice_in_dim(x, k, k + size - 1, 2, axis) for k, tap in enumerate(taps))
    return functools.reduce(operator.add, terms)


def double(x: Array, taps: Sequence[float], axis: int) -> Array:
    """Twice the transpose of `halve` along this axis, so that constants are preserved."""
    size, pad, reach = x.shape[axis], (len(taps) - 1) // 2, len(taps) // 2
    padded = _pad(x, reach, axis)

    def pixels(parity):
        """The even or the odd elements of y[i] = 2 sum_j taps[i + pad - 2j] x[j]."""
        starts = {k: reach + (parity + pad - k) // 2 for k in range(len(taps)) if (parity + pad - k) % 2 == 0}
        terms = (2 * taps[k] * lax.slice_in_dim(padded, i, i + size, axis=axis) for k, i in starts.items())
        return functools.reduce(operator.add, terms)

    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return jnp.stack([pixels(0), pixels(1)], axis + 1).reshape(shape)


@lru_cache
def resampler(step: Callable[[Array, Sequence[float], int], Array], taps: Sequence[float]) -> Callable[[Array], Array]:
    """The step along both axes of images [n, H, W, C], with the taps over their sum."""
    taps = [tap / sum(taps) for tap in taps]
    return jax.jit(lambda x: step(step(x, taps, 1), taps, 2))
