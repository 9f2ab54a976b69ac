"""Times as features that vary smoothly where t meets s."""

import jax.numpy as jnp
from jax import Array


def fourier_features(time: Array, frequencies: int) -> Array:
    """[time, cos(k time), sin(k time)] for k = 1..frequencies, as [..., 2 frequencies + 1].

    The frequencies are low on purpose: an embedding of t - s with fast ones lets the field jump beside the diagonal,
    and the lookahead would not be continuous where it starts.
    """
    time = time[..., None]
    angles = jnp.arange(1, frequencies + 1, dtype=time.dtype) * time
    return jnp.concatenate([time, jnp.cos(angles), jnp.sin(angles)], axis=-1)
