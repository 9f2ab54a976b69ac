"""config.precision reaches every product and convolution, and nothing but it decides about them."""

import re

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver
from jax.tree_util import Partial

from configs import celeba
from fmdp import bench, main, solvers
from fmdp.bench import __main__ as bench_program
from fmdp.bench import lowering
from fmdp.bench.caches import persistent_cache
from fmdp.bench.workload import Workload
from fmdp.evaluation import denoising
from fmdp.metrics.backbones import ImageDistance
from fmdp.metrics.convert_weights import params_shapes
from fmdp.metrics.weights import SOURCES
from fmdp.parallel.precision import PRECISIONS, use_precision

OPTION = "jax_default_matmul_precision"
SHAPE = (8, 8, 3)


@pytest.fixture
def unset():
    """JAX's own choice; what a test sets is undone."""
    before = getattr(jax.config, OPTION)
    jax.config.update(OPTION, None)
    yield
    jax.config.update(OPTION, before)


@pytest.fixture(params=PRECISIONS)
def precision(request, unset):
    use_precision(request.param)
    return request.param


@pytest.fixture(scope="module")
def workload():
    config = celeba.get_config("smoke")
    config.network = dict(name="unet", channels=4, multipliers=(1,), blocks=0, attention=(8,), resolution=8)
    config.loss.weighting = "learned"
    return Workload(config, SHAPE, 4, 1)


def products(function, *inputs, kinds="dot_general|convolution"):
    """The precisions that the products and convolutions of a program have: DEFAULT or HIGHEST."""
    text = (function if hasattr(function, "lower") else jax.jit(function)).lower(*inputs).as_text()
    lines = re.findall(rf"^.*stablehlo\.(?:{kinds})\b.*$", text, re.M)
    assert lines
    return set().union(*(re.findall(r"\b(?:DEFAULT|HIGHEST)\b", line) or {"DEFAULT"} for line in lines))


@pytest.mark.slow
def test_every_product_of_the_training_step_has_it(workload, precision):
    step = lowering.training_step(workload, jax.devices()[:1])
    assert products(step.function, *step.inputs) == {precision.upper()}


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_every_product_of_the_field_has_it_in_solvers(name, workload, precision):
    field = lowering.forward(workload)
    observed, keys = jax.eval_shape(lambda: workload.measurements(jnp.zeros((1, *SHAPE))))

    def solve(params, observed, keys):
        one, key = jax.tree.map(lambda x: x[0], (observed, keys))
        return solvers.make(name, steps=2)(lambda *at: field.function(params, *at), one, key)

    inputs = field.inputs[0], observed, keys
    if precision == "highest":
        assert products(solve, *inputs) == {"HIGHEST"}
    else:  # conjugate gradients and L-BFGS have products of their own, always at the highest precision
        assert products(solve, *inputs, kinds="convolution") == {"DEFAULT"}


def test_every_product_of_the_evaluation_has_it(workload, precision):
    field = lowering.forward(workload)
    average_field = Partial(field.function, field.inputs[0])
    inputs = average_field, jnp.zeros((2, *SHAPE)), jnp.float32(0.5), jnp.ones(2)
    assert products(denoising.sweep_lookaheads, *inputs) == {precision.upper()}


@pytest.mark.parametrize("name", SOURCES)
def test_metric_networks_always_have_the_highest(name, precision):
    network, images = SOURCES[name].network, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    inputs = (images, images) if isinstance(network, ImageDistance) else (images,)
    assert products(network.apply, {"params": params_shapes(network)}, *inputs) == {"HIGHEST"}


def test_programs_of_both_precisions_are_kept_apart(tmp_path, unset):
    with persistent_cache(str(tmp_path)):
        for name in PRECISIONS:
            use_precision(name)
            jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((3, 3), jnp.float32)).compile()
    assert len({path.name for path in tmp_path.glob("*-cache")}) == 2


def test_runs_restoring_and_the_benchmark_use_it_from_the_start(workload, unset, monkeypatch):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    seen = []

    def look(*_):
        seen.append(getattr(jax.config, OPTION))
        jax.config.update(OPTION, None)
        return []

    config = workload.config.copy_and_resolve_references()
    config.precision, config.train.batch_size = "highest", 64
    monkeypatch.setattr(flags.FLAGS["config"], "_value", config)
    monkeypatch.setattr(main.mesh, "divide_cpu", lambda *_: None)
    monkeypatch.setattr(main, "RunDir", type("RunDir", (), {"open": str}))
    monkeypatch.setattr(main, "run_config", look)
    monkeypatch.setattr("fmdp.cli.restore.run_restore", look)
    monkeypatch.setattr(bench, "measure", look)
    main.main([])
    with flagsaver.flagsaver(mode="restore", precision="highest"):
        main.main([])
    bench_program.main([])
    assert seen == ["highest"] * 3
