"""What the programs of a configuration need on machines that are not at hand (`targets`).

For TPUs everything but time is known exactly, because their own compiler makes the programs. The memory of a GPU is
estimated from the programs that the backend at hand compiles.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from fmdp import solvers
from fmdp.bench import collectives, flops
from fmdp.bench.lowering import Program, training_step
from fmdp.bench.programs import footprint
from fmdp.bench.speed import SOLVER_STEPS
from fmdp.bench.targets import Chip, Gpu, Tpu, devices_of
from fmdp.bench.workload import Workload, image_form
from fmdp.config.validation import validate_for_devices
from fmdp.errors import InputError, require_known, translating
from fmdp.parallel import batching
from fmdp.parallel.mesh import AXIS, make_mesh
from fmdp.parallel.precision import AUTO
from fmdp.training.state import make_field, make_network


def _train(workload: Workload, devices: Sequence[jax.Device], fsdp: bool = False) -> Program:
    config = workload.config.copy_and_resolve_references()
    config.parallel.update(mode="jit", fsdp=fsdp)
    return training_step(replace(workload, config=config), devices)


def _restore(workload: Workload, devices: Sequence[jax.Device]) -> Program:
    solve = solvers.make("pnp", steps=SOLVER_STEPS)
    field = make_field(make_network(workload.config), jax.eval_shape(workload.init).ema)
    mesh = make_mesh(tuple(devices))
    everywhere, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))

    def several(field, given):
        return jax.vmap(lambda observed, key: solve(field, observed, key))(*given)

    shared = jax.jit(batching.shard_rows(several, devices), in_shardings=(everywhere, rows), out_shardings=rows)
    images = jax.ShapeDtypeStruct((workload.size, *workload.shape), jnp.float32)
    return Program(shared, (field, jax.eval_shape(workload.measurements, images)))


PROGRAMS: Mapping[str, Callable[[Workload, Sequence[jax.Device]], Program]] = {
    "train": _train,
    "train_fsdp": partial(_train, fsdp=True),
    "restore": _restore,
}
"""The programs that are planned: the training step in `jit` mode, the same with FSDP, and steps of plug-and-play."""


def plan(config: ConfigDict, targets: Sequence[Tpu | Gpu], chosen: Sequence[str]) -> dict[str, Any]:
    """The memory that programs need on machines that are not at hand, by machine.

    Each program is printed to standard error as soon as it is compiled, which may take minutes.

    Args:
      chosen: names of PROGRAMS; all if there are none. A GPU is one device, and FSDP means nothing there.

    Returns:
      As plain JSON: for a slice of TPUs what `plan_tpu` returns, for a GPU what `plan_gpu` returns.

    Raises:
      InputError: a program is unknown, or the configuration does not fit a machine.
    """
    for name in chosen:
        require_known("--target_programs: unknown program", name, PROGRAMS)
    slices = {target: devices_of(target) for target in targets if isinstance(target, Tpu)}
    for target, devices in slices.items():
        check_batch(config, target, len(devices))
    names, (shape, dtype) = chosen or list(PROGRAMS), image_form(config)
    workload = Workload(config, shape, config.train.batch_size, rounds=1, dtype=dtype)
    on_chip = replace(workload, config=_for_accelerators(config))
    found = {target.name: plan_tpu(on_chip, target, devices, names) for target, devices in slices.items()}
    return found | plan_gpus(workload, [target for target in targets if isinstance(target, Gpu)], names)


def _for_accelerators(config: ConfigDict) -> ConfigDict:
    """The configuration with the type of products that the network has on an accelerator."""
    config = config.copy_and_resolve_references()
    if config.network.get("dtype") == AUTO:
        config.network.dtype = "bfloat16"
    return config


def check_batch(config: ConfigDict, target: Tpu, chips: int) -> None:
    """Refuse a configuration that these chips cannot run.

    Raises:
      InputError: the batch does not divide among them, or another condition of the configuration is not met.
    """
    size = config.train.batch_size
    if size % chips:
        fitting = chips * max(round(size / chips), 1)
        raise InputError(
            f"--target={target.name}: a batch of {size} does not divide into {chips} chips: pass --batch={fitting}"
        )
    with translating(lambda why: f"--target={target.name}: {why}", InputError):
        validate_for_devices(config, chips)


def plan_tpu(workload: Workload, target: Tpu, devices: Sequence[jax.Device], names: Sequence[str]) -> dict[str, Any]:
    """What programs need on each chip of a slice, by the TPU's own compiler; see `compile_for_chip`.

    `effort` is the compiler's for short execution times, from -1 to 1; JAX_EXEC_TIME_OPTIMIZATION_EFFORT sets it.
    """
    programs = {}
    for name in names:
        programs[name] = compile_for_chip(PROGRAMS[name](workload, devices), target.chip, len(devices))
        print(json.dumps({target.name: {name: programs[name]}}), file=sys.stderr, flush=True)
    return {
        "libtpu": importlib.metadata.version("libtpu"),
        "effort": jax.config.jax_exec_time_optimization_effort,  # type: ignore[attr-defined]
        "chips": len(devices),
        "hbm_bytes": round(target.chip.hbm),
        "batch_per_chip": workload.size // len(devices),
        "solver_steps": SOLVER_STEPS,
        "programs": programs,
    }


def compile_for_chip(program: Program, chip: Chip, chips: int) -> dict[str, Any]:
    """One program as it is compiled for one chip of a slice. Nothing runs.

    Returns:
      `fits`, and if it does not, the compiler's `reason`; `flops` of its convolutions and products; `bytes` of its
      arguments, outputs, outputs that take the place of arguments, temporaries and code; their sum and its
      `share_of_hbm`; `bytes_accessed`, where the body of a loop counts once; the bytes of its collectives by kind;
      seconds to trace and lower, and to compile.
    """
    began = time.perf_counter()
    lowered = program.function.lower(*program.inputs)
    row = {
        "flops": flops.product_flops(program.function, *program.inputs) / chips,
        "lower_seconds": time.perf_counter() - began,
    }
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return {"fits": False, "reason": str(error).splitlines()[0]} | row
    row["compile_seconds"] = time.perf_counter() - began
    memory = compiled.memory_analysis()
    total = flops.planned_bytes(compiled) + memory.generated_code_size_in_bytes
    return row | {
        "fits": True,
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "in_place": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        "total_bytes": total,
        "share_of_hbm": total / chip.hbm,
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "collective_bytes": collectives.collective_bytes(compiled.as_text()),
    }


def plan_gpus(workload: Workload, gpus: Sequence[Gpu], names: Sequence[str]) -> dict[str, Any]:
    """The batches that fit GPUs, from the memory that programs for the backend at hand state.

    Returns:
      By GPU and program: the bytes that do not depend on the batch, the bytes of an example, and the largest batch.
      `compiled_for` is the device at hand.
    """
    if not gpus:
        return {}
    state = jax.eval_shape(workload.init)
    held = {"train": state, "restore": state.ema}
    needs = {
        name: footprint(partial(_planned, PROGRAMS[name], workload), held[name], workload.shape)
        for name in names
        if name in held
    }
    source = {"compiled_for": jax.devices()[0].device_kind}
    if jax.default_backend() == "cpu":
        source["caution"] = "compiled for a CPU: only a guide to a GPU"

    def rows(gpu: Gpu) -> dict[str, Any]:
        return {
            name: {
                "fixed_bytes": round(need.fixed),
                "bytes_per_example": round(need.example),
                "batch": need.batch(gpu.gigabytes),
            }
            for name, need in needs.items()
        }

    return {gpu.name: source | rows(gpu) for gpu in gpus}


def _planned(make: Callable[..., Program], workload: Workload, size: int) -> int:
    function, inputs = make(replace(workload, size=size), jax.devices()[:1])
    return flops.planned_bytes(function.lower(*inputs).compile())
