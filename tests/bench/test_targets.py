import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import celeba, digits
from fmdp.bench import __main__ as program
from fmdp.bench import flops, planning, targets
from fmdp.bench.workload import Workload
from fmdp.errors import InputError
from tests.support.bad_input import one_line


@pytest.fixture(scope="module")
def workload():
    config = celeba.get_config("smoke")
    config.data.size = 8
    config.network = dict(name="mlp", width=128, blocks=1)
    config.loss.update(off_diagonal="semigroup", weighting="none")
    return Workload(config, (8, 8, 3), 4, 1)


def test_names_of_machines():
    assert targets.parse("tpu:v5e:2x2") == targets.Tpu("tpu:v5e:2x2", "v5e", "2x2")
    assert targets.parse("gpu:24").gigabytes == 24
    for name in ("", "tpu", "cpu:8", "gpu:0", "gpu:-8", "gpu:8GB", "tpu:v5e", "tpu:v5e:2", "tpu:v9:2x2", "v5e:2x2"):
        with pytest.raises(InputError, match=f"--target={name}: write tpu:GENERATION.* or gpu:GB, such as gpu:24"):
            targets.parse(name)
    for name, sides, most in (("tpu:v5e:2x2x2", 2, 256), ("tpu:v5e:32x16", 2, 256), ("tpu:v4:2x2", 3, 4096)):
        with pytest.raises(
            InputError, match=f"{name}: a slice of v.* has {sides} sides and at most {most} chips, such"
        ):
            targets.parse(name)


def test_a_batch_that_does_not_divide_the_chips_is_refused(workload):
    slice_of_4 = targets.parse("tpu:v5e:2x2")
    for size, fitting in ((6, 8), (1, 4)):
        workload.config.train.batch_size = size
        with pytest.raises(InputError, match=f"2x2: a batch of {size} does not divide into 4 chips: .*={fitting}$"):
            planning.check_batch(workload.config, slice_of_4, 4)
    workload.config.train.batch_size = 4
    with pytest.raises(InputError, match=r"--target=tpu:v5e:2x2: config\.loss.diagonal_share = 0\.75: leaves a part"):
        planning.check_batch(workload.config, slice_of_4, 4)


def test_what_cannot_be_compiled_for_is_refused(monkeypatch):
    config, asked = digits.get_config("smoke"), [targets.parse("tpu:v5e:2x2")]
    with pytest.raises(InputError, match="--target_programs: unknown program 'fit'; known: train, train_f"):
        planning.plan(config, asked, ["fit"])
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"v5e:2x2 needs the compiler of TPUs, libtpu: pip install .*\[tpu\]"):
        planning.plan(config, asked, [])


def test_a_topology_that_does_not_exist_is_refused(monkeypatch):
    """As the compiler of TPUs says it."""

    def refuse(name, platform, **options):
        raise jax.errors.JaxRuntimeError(f'INVALID_ARGUMENT: Topology layout "{name}" is not divisible')

    monkeypatch.setattr(targets, "find_spec", lambda name: name)
    monkeypatch.setattr(targets.topologies, "get_topology_desc", refuse)
    for key in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.setenv(key, "")  # so that it is put back
        monkeypatch.delenv(key)
    with pytest.raises(InputError) as error:
        targets.devices_of(targets.parse("tpu:v5p:3x7x1"))
    assert one_line(str(error.value))
    assert '"v5p:3x7x1" is not divisible' in str(error.value)
    assert str(error.value).endswith("name a topology of v5p, such as tpu:v5p:2x2x1")
    assert os.environ["TPU_ACCELERATOR_TYPE"] == "v5p-42"


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        (["tpu:v5e:2x2"], {"jax_enable_compilation_cache": False, "jax_platforms": "cpu"}),
        (["tpu:v5e:2x2", "gpu:8"], {"jax_enable_compilation_cache": False}),
        (["gpu:8"], {}),
    ],
)
def test_only_a_gpu_needs_the_devices_at_hand(names, changed, monkeypatch):
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    targets.prepare([targets.parse(name) for name in names])
    assert told == changed
    told.clear()
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    targets.prepare([targets.parse(name) for name in names])
    assert "jax_platforms" not in told


def test_flags_that_do_not_go_with_a_machine_are_refused():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    asked = {"config": digits.get_config("smoke"), "target": ["gpu:8"]}
    for only in ([], ["step"], ["memory", "step"]):
        with (
            flagsaver.flagsaver(only=only, **asked),
            pytest.raises(InputError, match="--target=gpu:8 plans memory: add"),
        ):
            program.main([])
    with flagsaver.flagsaver(only=["memory"], **asked):
        flags.FLAGS["devices"].present = 1
        with pytest.raises(InputError, match="--devices does nothing with --target: leave it out"):
            program.main([])


@pytest.mark.slow
@pytest.mark.parametrize("name", planning.PROGRAMS)
def test_programs_are_what_runs(workload, name):
    """A program that is planned from shapes is compiled for the devices at hand, and takes what they hold."""
    made = planning.PROGRAMS[name](replace(workload, size=8), jax.devices()[:1])
    row = planning.compile_for_chip(made, targets.CHIPS["v5e"], 1)
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made.inputs) if x.dtype != "key<fry>")
    assert row["fits"]
    assert row["bytes"]["arguments"] == pytest.approx(held, rel=0.05)
    assert row["share_of_hbm"] == pytest.approx(row["total_bytes"] / (15.75 * 2**30))
    assert row["flops"] == flops.product_flops(made.function, *made.inputs) > 0
    assert row["collective_bytes"] == {}


class OutOfMemory:
    """A program that is too large for the compiler."""

    def lower(self, *args):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 20G exceeds 15.75G\nmore")


def test_a_program_that_does_not_fit_says_so(monkeypatch):
    monkeypatch.setattr(flops, "product_flops", lambda function, *args: 1.0)
    row = planning.compile_for_chip(planning.Program(OutOfMemory(), ()), targets.CHIPS["v5e"], 4)
    assert not row["fits"]
    assert row["flops"] == 0.25  # of the four chips each does a quarter
    assert row["reason"] == "RESOURCE_EXHAUSTED: Ran out of memory on HBM, 20G exceeds 15.75G"


def test_a_gpu_takes_as_many_examples_as_its_memory_holds(workload, monkeypatch):
    """Here each has a kilobyte of input and one of output, and all share the state."""

    def add_one(workload, devices):
        return planning.Program(jax.jit(lambda x: x + 1), (jax.ShapeDtypeStruct((workload.size, 250), jnp.float32),))

    monkeypatch.setattr(planning, "PROGRAMS", {"train": add_one, "train_fsdp": None, "restore": add_one})
    gpus = [targets.parse(name) for name in ("gpu:8", "gpu:16")]
    found = planning.plan_gpus(workload, gpus, list(planning.PROGRAMS))
    assert found.keys() == {"gpu:8", "gpu:16"}
    held = jax.eval_shape(workload.init)
    for name, state in (("train", held), ("restore", held.ema)):
        fixed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        for gigabytes in (8, 16):
            row = found[f"gpu:{gigabytes}"][name]
            assert row == {
                "fixed_bytes": fixed,
                "bytes_per_example": 2000,
                "batch": int((0.9 * gigabytes * 1e9 - fixed) / 2000),
            }
    assert found["gpu:8"].keys() == {"compiled_for", "train", "restore"} | (
        {"caution"} if jax.default_backend() == "cpu" else set()
    )


def test_a_network_is_planned_with_the_products_that_it_has_there():
    config = celeba.get_config("smoke")
    assert config.network.dtype == "auto"
    assert planning._for_accelerators(config).network.dtype == "bfloat16"
    config.network.dtype = "float32"
    assert planning._for_accelerators(config).network.dtype == "float32"


@pytest.mark.long
def test_the_compiler_of_tpus_compiles_a_small_configuration(tmp_path):
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install -c constraints.txt '.[tpu]'")
    out = tmp_path / "plan.json"
    arguments = ("--config=configs/digits.py:smoke", "--only=memory", "--target=tpu:v5e:2x2", f"--out={out}")
    changes = ("--config.network.width=128", "--batch=16")
    command = [sys.executable, "-m", "fmdp.bench", *arguments, *changes]
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1"}
    )
    found = json.loads(out.read_text())["memory"]["tpu:v5e:2x2"]
    assert (found["chips"], found["batch_per_chip"], found["effort"]) == (4, 4, -1)
    train, fsdp, restore = (found["programs"][name] for name in ("train", "train_fsdp", "restore"))
    assert all(row["fits"] and row["bytes"]["code"] > 0 for row in (train, fsdp, restore))
    assert train["collective_bytes"].keys() == {"all-reduce"}
    assert fsdp["collective_bytes"].keys() >= {"all-gather", "reduce-scatter"}
    assert restore["collective_bytes"] == {}
    assert fsdp["bytes"]["arguments"] < 0.5 * train["bytes"]["arguments"]
    config = digits.get_config("smoke")
    config.network.width = 128
    made = planning.PROGRAMS["train"](Workload(config, (8, 8, 1), 16, 1), jax.devices()[:1])
    assert 4 * train["flops"] == flops.product_flops(made.function, *made.inputs)
    assert fsdp["flops"] == train["flops"] > restore["flops"] / found["solver_steps"]
