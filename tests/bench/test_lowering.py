import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import cifar10
from fmdp.bench import __main__ as program
from fmdp.bench import lowering
from fmdp.bench.caches import persistent_cache, without_persistent_cache
from fmdp.bench.workload import Workload
from fmdp.errors import InputError


def test_operations_are_counted_where_they_stand():
    def network(x, kernel):
        x = jax.lax.conv(jax.lax.conv(x, kernel, (1, 1), "SAME"), kernel, (1, 1), "SAME")
        x, _ = jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, None, 5)
        return jnp.tanh(x) + x.sum()

    text = jax.jit(network).lower(jnp.ones((1, 2, 4, 4)), jnp.ones((2, 2, 3, 3))).as_text()
    found = lowering.count_operations(text)
    assert found["lines"] == len(text.splitlines())
    assert found["convolutions"] == 2
    assert len(found["frequent"]) == 6
    assert list(found["frequent"].values()) == sorted(found["frequent"].values(), reverse=True)
    assert lowering.count_operations("""
      %0 = stablehlo.reduce(%arg0 init: %cst) applies stablehlo.add across dimensions = [0] : (tensor<3xf32>) -> f32
      %1:2 = stablehlo.while(%iterArg = %arg0, %iterArg_0 = %c) : tensor<3xf32>, tensor<i32>
      stablehlo.return %1#0 : tensor<f32>
      %2, %3 = call @sine(%0) : (tensor<f32>) -> (tensor<f32>, tensor<f32>)
      %4 = func.call @sine(%0) : (tensor<f32>) -> tensor<f32>
      %5 = "stablehlo.all_reduce"(%4) <{channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>}> ({
      %6 = chlo.square %5 : tensor<f32> -> tensor<f32>
      return %6 : tensor<f32>
""")["frequent"] == {"call": 2, "reduce": 1, "while": 1, "all_reduce": 1, "square": 1}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_the_step_that_is_counted_is_the_one_that_trains(tiny, mode):
    tiny.parallel.mode = mode
    workload = Workload(tiny, (8, 8, 3), 4, 1)
    planned = lowering.training_step(workload, jax.devices()[:1])
    assert "state" not in vars(workload)  # nothing was allocated
    assert "images" not in vars(workload)
    vars(workload)["state"] = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(workload.init))
    step, state, batch, numbers = workload.compile(jax.devices()[:1])
    lowered = step.lower(state, batch, jax.random.key(0), numbers)
    assert planned.function.lower(*planned.inputs).as_text() == lowered.as_text()


@pytest.mark.slow
def test_the_programs_are_measured_without_running(tiny):
    found = lowering.program(Workload(tiny, (8, 8, 3), 4, 1, compiles=False))
    assert set(found) == {"step", "forward", "initial_state"}
    assert all(
        set(one) >= {"lines", "convolutions", "frequent", "trace_seconds", "lower_seconds"} for one in found.values()
    )
    assert not any("compile_seconds" in one for one in found.values())
    assert found["step"]["lines"] > found["forward"]["lines"] > 0
    assert lowering.draw_seconds(Workload(tiny, (8, 8, 3), 4, 1)) > 0
    network = lowering.forward(Workload(cifar10.get_config("smoke"), (32, 32, 3), 2, 1))
    convolutions = lowering.measure_program(network, compiles=False)["convolutions"]
    assert convolutions == network.function.lower(*network.inputs).as_text().count("= stablehlo.convolution(") > 5


def test_a_compilation_is_cold_even_where_there_is_a_cache(tmp_path):
    planned = lowering.Program(jax.jit(lambda x: jnp.sin(x) * 3.25), (jax.ShapeDtypeStruct((7,), jnp.float32),))
    directory = jax.config.jax_compilation_cache_dir
    with persistent_cache(str(tmp_path)):
        assert lowering.measure_program(planned, compiles=True)["compile_seconds"] > 0
        assert not list(tmp_path.iterdir())
        with without_persistent_cache():
            assert jax.config.jax_compilation_cache_dir is None
        jax.clear_caches()
        planned.function.lower(*planned.inputs).compile()
        assert list(tmp_path.iterdir())
    assert jax.config.jax_compilation_cache_dir == directory


def test_compiling_is_left_out_only_where_it_is_a_choice():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with (
        flagsaver.flagsaver(compile=False, only=["forward"]),
        pytest.raises(InputError, match="--compile=False applies to the section program"),
    ):
        program.main([])
