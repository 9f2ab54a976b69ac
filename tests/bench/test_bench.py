import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import cifar10, digits
from fmdp import bench
from fmdp.bench import __main__ as program
from fmdp.bench import flops, programs, speed
from fmdp.bench.workload import Workload
from fmdp.errors import InputError
from fmdp.flow import losses


def test_products_are_found_wherever_they_hide():
    @jax.checkpoint
    def layer(x, w):
        return jnp.tanh(x @ w)

    def network(x, w):
        x, _ = jax.lax.scan(lambda x, w: (jax.jit(layer)(x, w), None), x, w)
        kernel = jnp.ones((3, 1, 1), x.dtype)
        return jax.lax.conv_general_dilated(x[..., None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    x, w = jnp.ones((2, 5)), jnp.ones((3, 5, 5))
    found = flops.product_equations(network, x, w)
    assert [equation.primitive.name for equation in found] == ["dot_general"] * 3 + ["conv_general_dilated"]
    backward = flops.product_equations(jax.grad(lambda w: network(x, w).sum()), w)
    assert len(backward) > 2 * len(found)


def test_the_chain_is_the_same_arithmetic_in_a_row():
    a, b = jnp.ones((16, 32)), jnp.ones((32, 8))

    def network(a, b):
        c = a @ b
        return c @ (c.T @ a)

    run, operands = flops.chain(flops.product_equations(network, a, b), jax.random.key(0))
    lowered = jax.jit(run).lower(operands)
    (wanted, chained) = (
        program.compile().cost_analysis()["flops"] for program in (jax.jit(network).lower(a, b), lowered)
    )
    assert chained == pytest.approx(wanted, rel=0.2)
    assert flops.product_flops(network, a, b) == pytest.approx(chained, rel=0.1)
    twice = flops.product_flops(lambda a, b: jax.lax.scan(lambda a, _: (network(a, b), None), a, None, 2), a, b)
    assert twice == pytest.approx(2 * flops.product_flops(network, a, b), rel=1e-2)
    first = operands[0][0].at[:].set(jnp.nan)
    assert jnp.isnan(run([(first, operands[0][1]), *operands[1:]]))  # all wait for the first


@pytest.mark.slow
def test_every_section_measures_something(tiny):
    found = dict(bench.measure(digits.get_config("smoke"), [], 8, 2, compiles=False))
    assert set(found) == set(bench.SECTIONS)
    assert found["forward"]["products"] == 7
    assert found["sweep"]["compiled"] == 1
    assert found["devices"]["1"]["over_one_gradient"] == 0
    assert set(found["step"]) == set(losses.OFF_DIAGONAL)
    for used in (found["forward"], found["step"]["semigroup"], found["solve"]):
        assert 0 < used["utilisation"] < 2  # noise of a busy machine, on both sides of the ratio
    ratios = [
        found["forward"]["over_bare_products"],
        found["solve"]["over_forwards"],
        found["input"]["batches_in_a_step"],
    ]
    assert min(ratios) > 0
    assert found["profile"]["step"]["product"]["kernels"] > found["profile"]["forward"]["product"]["kernels"] > 0
    assert len(found["profile"]["step"]["largest"]) == 5
    assert found["program"]["step"]["lines"] > found["program"]["forward"]["lines"]
    assert found["compile"]["cold_seconds"] > found["compile"]["warm_seconds"] > 0
    assert "does not exist" in dict(bench.measure(tiny, ["input"], 4, 1))["input"]["not_measured"]


@pytest.mark.slow
def test_what_all_devices_do_is_held_against_one(tmp_path):
    """In pmap, where devices exchange one gradient a step."""
    out = tmp_path / "bench.json"
    arguments = (
        "--config=configs/digits.py:smoke",
        "--only=forward,input,devices,profile",
        "--rounds=2",
        f"--out={out}",
    )
    command = [sys.executable, "-m", "fmdp.bench", *arguments, "--config.parallel.mode=pmap"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"})
    found = json.loads(out.read_text())
    assert found["forward"]["all_devices"]["devices"] == 2
    assert found["forward"]["all_devices"]["over_bare_products"] > 0
    assert found["profile"]["step"]["product"]["seconds"] > 0
    assert 0.3 < found["input"]["loop_over_steps"] < 5
    assert found["devices"].keys() == {"1", "2"}
    assert found["devices"]["2"]["collective_bytes"].keys() == {"all-reduce"}


@pytest.mark.slow
def test_the_step_that_is_configured_is_measured(tmp_path):
    """Sharded parameters are gathered and their gradient is scattered."""
    out = tmp_path / "bench.json"
    arguments = ("--config=configs/digits.py:smoke", "--only=devices", "--devices=2", "--rounds=1", f"--out={out}")
    changes = ("--config.parallel.fsdp=True", "--config.network.width=128")
    subprocess.run([sys.executable, "-m", "fmdp.bench", *arguments, *changes], check=True, capture_output=True)
    exchanged = json.loads(out.read_text())["devices"]["2"]["collective_bytes"]
    assert set(exchanged) == {"all-gather", "reduce-scatter", "all-reduce"}


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_holds_the_state():
    """For a network whose activations outweigh its parameters."""
    config = cifar10.get_config("smoke")
    ((_, found),) = bench.measure(config, ["memory"], 0, 1)
    state = jax.eval_shape(Workload(config, (32, 32, 3), 4, 1).init)
    assert found["image_shape"] == (32, 32, 3)
    assert found["fixed_bytes"] >= sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert found["bytes_per_example"] > 4 * 32 * 32 * 3
    least, *_, most = found["batch_per_device"].values()
    assert most >= 5 * least > 0
    fits = found["batch_per_device"]["16GB"]
    assert found["fixed_bytes"] + fits * found["bytes_per_example"] == pytest.approx(0.9 * 16e9, rel=2e-3)


def test_an_example_takes_at_least_its_image():
    """The memory of a tiny network is that of its update, whatever the batch."""
    found = programs.footprint(lambda size: 10_000 - size, jax.ShapeDtypeStruct((100,), jnp.float32), (8, 8, 3))
    assert found.example == 4 * 8 * 8 * 3
    assert found.batch(1) == int((0.9e9 - found.fixed) / found.example) > 0


def test_unknown_sections_are_refused(tiny):
    with pytest.raises(InputError, match=r"--only: unknown section 'speed'.*; known: ceilings, forward"):
        list(bench.measure(tiny, ["speed"], 0, 1))
    assert bench.choose(["step", "forward", "step"]) == ["step", "forward"]
    assert bench.choose([]) == list(bench.SECTIONS)


def test_a_section_is_printed_and_written_before_the_next_begins(tmp_path, monkeypatch, capsys, tiny):
    """A time limit loses only the section that it falls in."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    out, seen = tmp_path / "bench.json", []

    def look(workload):
        seen.append((json.loads(out.read_text()), capsys.readouterr().out))
        return {"number": 2}

    monkeypatch.setattr(bench, "SECTIONS", {"first": lambda workload: {"number": 1}, "second": look})
    monkeypatch.setattr(program.mesh, "divide_cpu", lambda *_: None)
    flag = flags.FLAGS["config"]
    monkeypatch.setattr(flag, "_value", tiny)
    with flagsaver.flagsaver(out=str(out)):
        program.main([])
    ((written, printed),) = seen
    assert written["first"] == {"number": 1}
    assert "second" not in written
    assert json.loads(printed.rstrip().removesuffix(",") + "}") == written
    whole = json.loads(printed + capsys.readouterr().out)
    assert whole == json.loads(out.read_text()) == written | {"second": {"number": 2}}


def test_a_pass_of_the_copy_ceiling_reads_and_writes_its_array_once():
    """One kernel writes it within a loop of unknown length, in the memory of the donated array."""
    x = jnp.arange(1.0, 2**14, dtype=jnp.float32)
    text = speed.negate_in_place.lower(x, 3).compile().as_text()
    written = re.findall(r"= f32\[16383\]\S* (\w+)\(", text)
    assert sorted(set(written) - {"parameter", "get-tuple-element"}) == ["fusion", "negate"]
    assert written.count("fusion") == written.count("negate") == 1  # the latter is what the fusion does
    assert "may-alias" in text
    assert "known_trip_count" not in text
    np.testing.assert_array_equal(speed.negate_in_place(jnp.copy(x), 3), -x)


def test_flags_that_cannot_be_used_are_refused_before_anything_is_measured(tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    for path in (tmp_path, tmp_path / "nowhere" / "x.json"):
        with flagsaver.flagsaver(out=str(path)), pytest.raises(InputError, match=f"--out={path}: name a file"):
            program.main([])
    with flagsaver.flagsaver():
        flags.FLAGS["workdir"].present = 1
        with pytest.raises(InputError, match=r"--workdir does nothing in fmdp\.bench"):
            program.main([])
