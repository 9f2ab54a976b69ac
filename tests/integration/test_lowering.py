"""Everything that runs on a device is lowered for TPUs and for GPUs, which needs neither.

A new loss, weighting, solver, operator or metric network takes part by its entry in its registry.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from configs import celeba
from fmdp import operators, solvers
from fmdp.evaluation import denoising, solver_batches
from fmdp.flow import losses
from fmdp.metrics.backbones import ImageDistance
from fmdp.metrics.convert_weights import params_shapes
from fmdp.metrics.weights import SOURCES
from fmdp.networks import make_backbone
from fmdp.operators.noise import GaussianNoise, Observation, observe
from fmdp.operators.registry import OPERATORS
from fmdp.parallel.data_parallel import make_train_mode
from fmdp.restoration import solve
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.state import init_state
from fmdp.training.step import make_train_step, step_form

PLATFORMS = ("tpu", "cuda")
KEY = jax.random.key(0)
SHAPE = (8, 8, 3)
NETWORKS = {
    "mlp": {"width": 4, "blocks": 1},
    "unet": {"channels": 4, "multipliers": (1,), "blocks": 0, "attention": (), "dtype": "bfloat16"},
}
STEPS = [(loss, "learned", "mlp") for loss in losses.OFF_DIAGONAL]
STEPS += [("meanflow", weighting, "unet") for weighting in losses.WEIGHTING]
PARAMETERS = {
    "box_inpainting": {"size": 2},
    "random_inpainting": {"ratio": 0.5},
    "gaussian_blur": {"kernel_size": 3, "std": 1.0},
    "super_resolution": {"factor": 2},
    "decimation": {"factor": 2},
    "motion_blur": {"kernel_size": 5},
    "jpeg": {"quality": 50},
}


def lower(function, *args, **static):
    """The text of a function, compiled or not, for both platforms at once."""
    traced = (function if hasattr(function, "trace") else jax.jit(function)).trace(*args, **static)
    return traced.lower(lowering_platforms=PLATFORMS).as_text()


@pytest.fixture(scope="module")
def field():
    network, x, time = make_backbone("mlp", NETWORKS["mlp"]), jnp.zeros(SHAPE), jnp.zeros(())
    return Partial(network.apply, jax.eval_shape(network.init, KEY, x, time, time))


def observation(name="gaussian_blur", shape=SHAPE):
    """The shapes of an observation; nothing is computed."""

    def draw():
        operator = operators.make(name, shape, KEY, **PARAMETERS.get(name, {}))
        return observe(operator, GaussianNoise(sigma=0.1), jnp.zeros(shape), KEY)

    return jax.eval_shape(draw)


def test_what_another_platform_cannot_do_is_noticed():
    with pytest.raises(NotImplementedError, match="eig"):
        lower(jnp.linalg.eig, jnp.eye(2))


@pytest.mark.parametrize(("loss", "weighting", "network"), STEPS)
def test_the_training_step(loss, weighting, network):
    config = celeba.get_config("smoke")
    config.loss.update(off_diagonal=loss, weighting=weighting)
    config.network = {"name": network} | NETWORKS[network]
    mode = make_train_mode("jit", jax.devices()[:1])
    state = mode.layout(jax.eval_shape(lambda: step_form(config, init_state(config, SHAPE, KEY))))
    dtype = jnp.uint8 if network == "unet" else jnp.float32  # a source has bytes or floats
    batch = {"image": jax.ShapeDtypeStruct((8, *SHAPE), dtype), "row": jax.ShapeDtypeStruct((8,), jnp.int32)}
    lower(mode.compile(partial(make_train_step, config), state), state, batch, KEY, hyperparameters(config))


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_solvers_on_a_batch(name, field):
    batch = jax.eval_shape(lambda one: jax.tree.map(lambda x: x[None], one), (observation(), jax.random.key_data(KEY)))
    arrays, form = jax.tree.flatten(batch)
    static = (("steps", 2),)
    lower(solver_batches._solve, field, {}, arrays, form=form, solver=name, static=static)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_their_adjoints(name):
    observed = observation(name)

    def residual(observed: Observation, x):
        return operators.adjoint(observed.operator, observed.operator(x) - observed.y, x)

    lower(residual, observed, jnp.zeros(SHAPE))


@pytest.mark.parametrize("name", SOURCES)
def test_metric_networks(name):
    network, images = SOURCES[name].network, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    inputs = (images, images) if isinstance(network, ImageDistance) else (images,)
    lower(network.apply, {"params": params_shapes(network)}, *inputs)


def test_the_evaluation_of_the_plane(field):
    x, s = jnp.zeros((2, *SHAPE)), jnp.float32(0.5)
    lower(denoising.sweep_lookaheads, field, x, s, jnp.linspace(0, 1, 3))
    lower(denoising._baselines, field, x, s, KEY, steps=2)


def test_restoring_on_tiles(field):
    canvas, one = (12, 16, 3), jnp.ones(1)
    tiles = {"canvas": canvas, "tile": SHAPE}
    lower(solve._plug_and_play_at, field, observation(shape=canvas), KEY[None], one, one[0], steps=2, **tiles)
    lower(solve._denoise_at, field, jnp.zeros(canvas), one[0], one, **tiles)
