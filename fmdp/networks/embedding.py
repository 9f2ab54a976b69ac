"""Features of times that vary smoothly near t = s."""

import jax.numpy as jnp
from jax import Array


def fourier_features(time: Array, frequencies: int) -> Array:
    """[time, cos(k time), sin(k time)] for k = 1..frequencies, as [..., 2 frequencies + 1].

    The frequencies are low on purpose. With high ones in the embedding of t - s, the field can jump near the diagonal,
    and the lookahead would not be continuous where it starts.
    """
    time = time[..., None]
    angles = jnp.arange(1, frequencies + 1, dtype=time.dtype) * time
    return jnp.concatenate([time, jnp.cos(angles), jnp.sin(angles)], axis=-1)
