from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmdp.config.defaults import default_config
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.state import init_state
from fmdp.training.step import update
from fmdp.training.vectors import packing


@pytest.fixture(scope="module")
def setting():
    """A configuration, a state after some history, and a gradient."""
    c = default_config()
    c.network = dict(name="mlp", width=8, blocks=1)
    c.loss.weighting = "learned"
    c.optimizer.weight_decay = 0.1
    state = init_state(c, (2, 2, 1), jax.random.key(0))
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: (
            x + jnp.asarray(100 * rng.uniform(size=x.shape), x.dtype)
            if x.ndim < 1
            else x + rng.uniform(size=x.shape).astype(x.dtype)
        ),
        state,
    )
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state.params)
    return c, state, grads


def test_every_copy_of_the_parameters_becomes_a_vector_and_comes_back(setting):
    _, state, _ = setting
    pack, unpack = packing(state.params["network"])
    packed = pack(state)
    size = sum(x.size for x in jax.tree.leaves(state.params["network"]))
    assert [x.shape for x in jax.tree.leaves(packed)].count((size,)) == 4  # parameters, average and two moments
    jax.tree.map(np.testing.assert_array_equal, unpack(packed, state), state)
    assert jax.tree.structure(unpack(packed, state)) == jax.tree.structure(state)


@pytest.mark.parametrize("loss", [1.0, np.nan])
def test_an_update_of_vectors_is_that_of_arrays(setting, loss):
    c, state, grads = setting
    step = jax.jit(partial(update, c, hyperparameters(c)))
    pack, unpack = packing(state.params["network"])
    expected, expected_metrics = step(state, grads, {"loss": jnp.float32(loss)})
    updated, metrics = step(pack(state), pack(grads), {"loss": jnp.float32(loss)})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), unpack(updated, state), expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), metrics, expected_metrics)
    moved = optax.tree.norm(optax.tree.sub(expected.params, state.params))
    assert (moved > 0) == np.isfinite(loss)
