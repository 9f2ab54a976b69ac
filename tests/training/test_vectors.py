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
from fmdp.training.vectors import Vector, pack, pack_like, take_apart, unpack


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
        lambda x: x + jnp.asarray((1 + 99 * (x.ndim == 0)) * rng.uniform(size=x.shape), x.dtype), state
    )
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state.params)
    return c, state, grads


def vectors(tree):
    nodes = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Vector))
    return [x.values for x in nodes if isinstance(x, Vector)]


@pytest.mark.parametrize("back", [unpack, take_apart])
def test_every_copy_of_the_parameters_becomes_a_vector_and_comes_back(setting, back):
    _, state, _ = setting
    packed = pack(state)
    size = sum(x.size for x in jax.tree.leaves(state.params["network"]))
    assert [x.shape for x in vectors(packed)] == 4 * [(size,)]  # parameters, average and two moments
    assert jax.tree.structure(back(packed)) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back(packed), state)
    jax.tree.map(np.testing.assert_array_equal, back(state), state)


@pytest.mark.parametrize("loss", [1.0, np.nan])
def test_an_update_of_vectors_is_that_of_arrays(setting, loss):
    c, state, grads = setting
    step = jax.jit(partial(update, c, hyperparameters(c)))
    packed = pack(state)
    expected, expected_metrics = step(state, grads, {"loss": jnp.float32(loss)})
    updated, metrics = step(packed, pack_like(grads, packed.params), {"loss": jnp.float32(loss)})
    assert len(vectors(updated)) == 4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), unpack(updated), expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), metrics, expected_metrics)
    moved = optax.tree.norm(optax.tree.sub(expected.params, state.params))
    assert (moved > 0) == np.isfinite(loss)
