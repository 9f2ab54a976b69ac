import os
import socket
import subprocess
import sys
import textwrap
from functools import partial

import jax
import numpy as np
import pytest

from fmdp.bench import collectives
from fmdp.config.defaults import default_config
from fmdp.config.validation import divides_batch, validate_for_devices
from fmdp.errors import InputError
from fmdp.io import files
from fmdp.parallel import batching, cluster, mesh
from fmdp.training import scalar_log


def test_parameters_are_sharded_along_their_largest_divisible_axis():
    assert tuple(mesh.fsdp_spec((3, 3, 64, 128), 4)) == (None, None, None, "data")
    assert tuple(mesh.fsdp_spec((3, 3, 128, 90), 4)) == (None, None, "data", None)
    for shape in ((8, 8), (4097,), ()):
        assert tuple(mesh.fsdp_spec(shape, 4)) == ()


@pytest.mark.parametrize(
    ("cores", "changes", "environment", "devices"),
    [
        (2, {}, {}, 2),
        (6, {}, {}, 4),  # 256 examples do not divide by 6
        (64, {}, {}, mesh.DEFAULT_CPU_DEVICES),
        (8, {"train.batch_size": 16}, {}, 4),  # 12 on the diagonal do not divide by 8
        (8, {"train.batch_size": 9}, {}, 1),
        (6, {"train.grad_accumulation_steps": 32}, {}, 2),
        (6, {"parallel.cpu_devices": 3}, {}, 3),
        (6, {}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, None),
    ],
)
def test_a_cpu_is_divided_into_devices_that_divide_the_batch(cores, changes, environment, devices, monkeypatch):
    told = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setenv("NPROC", "")  # so that it is put back
    monkeypatch.delenv("NPROC")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    c = default_config()
    c.update_from_flattened_dict(changes)
    mesh.divide_cpu(c.parallel.cpu_devices, partial(divides_batch, c))
    assert told.get("jax_num_cpu_devices") == devices
    assert os.environ.get("NPROC") == (None if devices == 1 else str(cores + (devices or 3)))


def test_collectives_are_read_from_the_text_of_a_program():
    text = """
      %a = (f32[64,2]{1,0}, f32[]) all-reduce(%x, %y), replica_groups={{0,1}}, to_apply=%add
      ROOT %b = bf16[10]{0} all-gather(%x), replica_groups=[1,2]<=[2], dimensions={0}
      %c = (f32[5]{0}, f32[10]{0}) all-gather-start(%x), replica_groups={{0,1}}, dimensions={0}
      %d = f32[10]{0} all-gather-done(%c)
      %alone = f32[9]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
      %e = f32[64]{0} add(%x, %y)
    """
    assert collectives.collective_bytes(text) == {"all-reduce": 516, "all-gather": 60}


def test_collectives_that_the_compiler_of_tpus_rewrites_count_once():
    """It divides a gather into pieces that repeat it, pads a scatter, and keeps track of a permutation with numbers."""
    text = """
%fused.1 (p: bf16[32,128]) -> bf16[128,128] {
  %g.1 = bf16[128,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), replica_groups={{0,1,2,3}}, a={chain_id="1"}
}
%fused.2 (p: bf16[32,128]) -> bf16[128,128] {
  %g.2 = bf16[128,128]{1,0:T(8,128)(2,1)} all-gather(%p), replica_groups={{0,1,2,3}}, a={chain_id="1"}
}
%all-reduce-scatter.2 (i: f32[192,128], j: f32[128,192]) -> (f32[64,128], f32[128,64]) {
  %r = (f32[256,128]{1,0:T(8,128)}, f32[128,256]{0,1:T(8,128)}) all-reduce(%i, %j), replica_groups={{0,1,2,3}}
  ROOT %t = (f32[64,128], f32[128,64]) tuple(%u, %v)
}
ENTRY %main (x: f32[]) -> f32[] {
  %f = (f32[64,128]{1,0}, f32[128,64]{1,0}) fusion(%x, %y), kind=kCustom, calls=%all-reduce-scatter.2
  %p = (f32[48,8]{1,0}, f32[48,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%s), channel_id=1
  %q = f32[48,8]{1,0} collective-permute-done(%p)
  %g.3 = bf16[16,128]{1,0} all-gather(%p), replica_groups={{0,1,2,3}}, a={chain_id="2"}
}
"""
    assert collectives.collective_bytes(text) == {
        "all-gather": 2 * (128 + 16) * 128,
        "reduce-scatter": 4 * 2 * 64 * 128,
        "collective-permute": 4 * 48 * 8,
    }


def test_what_does_not_fit_the_devices_is_refused():
    c = default_config()
    c.network.name = "mlp"
    for key, value, message in (
        ("train.batch_size", 255, "train.batch_size = 255: must be divisible by the 4 devices"),
        (
            "train.grad_accumulation_steps",
            3,
            r"must be divisible by the 3 parts \(config.train.grad_accumulation_steps\) on each of 4 devices",
        ),
        ("parallel.devices", 8, "parallel.devices = 8: this run found 4"),
        ("train.batch_size", 4, "diagonal_share = 0.75: leaves a part of 4 examples on 4 devices empty"),
        ("parallel.cpu_devices", 65, "parallel.cpu_devices = 65: must be from 0 to 64"),
    ):
        wrong = c.copy_and_resolve_references()
        wrong.update_from_flattened_dict({key: value})
        with pytest.raises(InputError, match=message):
            validate_for_devices(wrong, 4)
    c.parallel.update(mode="pmap", fsdp=True)
    with pytest.raises(InputError, match=r"parallel.fsdp = True: needs config.parallel.mode=jit"):
        validate_for_devices(c, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS=: must be HOST:PORT .*, or none of them"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "must be from 0 to"),
        (
            {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"},
            "JAX_NUM_PROCESSES=two: must be a whole number",
        ),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "host"}, "must be HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:\u00b2"}, "must be HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:65536"}, "from 1 to 65535"),
    ],
)
def test_an_impossible_cluster_is_refused(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        cluster.join(1)


def test_a_port_that_is_taken_is_refused(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"
        for name, value in (("ADDRESS", address), ("NUM_PROCESSES", "2"), ("PROCESS_ID", "0")):
            monkeypatch.setenv(f"JAX_{'COORDINATOR_' * (name == 'ADDRESS')}{name}", value)
        with pytest.raises(InputError, match=f"{address}: process 0 cannot listen there"):
            cluster.join(1)


def test_devices_that_do_not_start_are_told(monkeypatch):
    def fails():
        raise RuntimeError("Unable to initialize backend 'cuda': no driver")

    monkeypatch.setattr(mesh.jax, "device_count", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match=r"no device of JAX_PLATFORMS=cuda starts \(Unable .*: no driver\): install"):
        mesh.count_devices()


@pytest.mark.slow
def test_one_gradient_is_exchanged_a_step_the_state_used_up_and_batches_do_not_feel_the_devices():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    program = """
        import itertools
        import jax
        jax.config.update("jax_num_cpu_devices", 8)
        import numpy as np
        from fmdp import data
        from fmdp.bench import collectives
        from fmdp.parallel import batching
        from fmdp.parallel import data_parallel
        from fmdp.training.hyperparameters import hyperparameters
        from fmdp.training.state import init_state
        from fmdp.training.step import make_train_step
        from tests.training.test_loop import IMAGES, small_config
        c = small_config()
        c.train.grad_accumulation_steps = 2
        c.loss.diagonal_share = 0.5
        c.network.width = 64  # kernels as large as parallel.SMALL
        for mode, n in itertools.product(("jit", "pmap", "fsdp"), (1, 2, 8)):
            run = data_parallel.make_train_mode("pmap" if mode == "pmap" else "jit", jax.devices()[:n], mode == "fsdp")
            state = run.place_state(init_state(c, IMAGES.shape[1:], jax.random.key(0)))
            step = run.compile(lambda spread: make_train_step(c, spread), state)
            batch = run.place_batch(next(data.batches(IMAGES, 32, 0)))
            inputs = state, batch, jax.random.key(1), hyperparameters(c)
            text = step.lower(*inputs).compile().as_text()
            params = jax.tree.leaves(state.params)
            gradient, metrics = sum(x.nbytes for x in params), 3 * 4
            shards = [x.nbytes for x in params if mode == "fsdp" and not x.sharding.is_fully_replicated]
            sharded, norms = sum(shards), 4 * 4 * len(shards)  # four sums of squares of each
            wanted = {"all-reduce": gradient - sharded + metrics + norms} if n > 1 else {}
            if sharded:
                wanted |= {"all-gather": sharded, "reduce-scatter": sharded // n}
            assert collectives.collective_bytes(text) == wanted, (mode, n)
            assert bool(sharded) == (mode == "fsdp" and n > 1), (mode, n)
            step(*inputs)
            assert all(x.is_deleted() for x in jax.tree.leaves(state)), (mode, n)
        x = np.arange(42.0, dtype=np.float32).reshape(21, 2)
        double = batching.in_batches(jax.jit(lambda x: {"y": (2 * x)[None]}), x, 5, axis=1)
        np.testing.assert_array_equal(double["y"][0], 2 * x)
        one_by_one = jax.jit(batching.shard_rows(lambda a, x: jax.lax.map(lambda x: a * x, x)))
        np.testing.assert_array_equal(batching.in_batches(lambda x: one_by_one(3.0, x), x, 30), 3 * x)
        rows = jax.numpy.asarray(x[:5])
        mapped = jax.jit(lambda a, x: batching.map_rows(lambda a, row: a * row, a, x, 2))
        np.testing.assert_array_equal(mapped(batching.replicate_local(jax.numpy.float32(3)), rows), 3 * x[:5])
        text = mapped.lower(batching.replicate_local(jax.numpy.float32(3)), rows).compile().as_text()
        assert "f32[1,2]" in text  # of five rows on eight devices each has one
        print("counted")
"""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.stdout.endswith("counted\n"), done.stderr[-2000:]


def test_only_the_first_of_several_processes_leaves_files(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    files.write_json(tmp_path / "summary.json", {})
    with scalar_log.ScalarLog(tmp_path, 0) as log:
        log.write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
    with files.atomic_write(tmp_path / "cache", by_all=True) as temporary:
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_batches_are_filled_up_and_cut():
    seen = []

    def function(x):
        seen.append(np.asarray(x))
        return x + 1

    x = np.arange(7.0, dtype=np.float32)
    np.testing.assert_array_equal(batching.in_batches(function, x, 3), x + 1)
    np.testing.assert_array_equal(np.stack(seen), [[0, 1, 2], [3, 4, 5], [6, 0, 1]])
