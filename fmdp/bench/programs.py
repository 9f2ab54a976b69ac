"""Compile time and planned memory of the training step, and what it exchanges between devices."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from fmdp.bench import collectives, flops, lowering
from fmdp.bench.caches import persistent_cache
from fmdp.bench.workload import Workload, median_seconds
from fmdp.training.step import make_train_step, step_form

PLANNED = (4, 8)  # batch sizes whose difference in memory gives that of one example
DEVICES_GB = (16, 32, 80)
USABLE = 0.9  # of a device's memory; the rest goes to the runtime and to gaps between buffers


def compiling(workload: Workload) -> dict[str, Any]:
    """Seconds to compile the training step, without a persistent cache and from a warm one."""
    state = step_form(workload.config, workload.state)
    lowered = partial(jax.jit(make_train_step(workload.config)).lower, state, workload.batch())

    def timed():
        jax.clear_caches()
        compilation_cache.reset_cache()
        began = time.perf_counter()
        lowered(jax.random.key(0)).compile()
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder, persistent_cache(folder):
        cold, warm = timed(), timed()
    return {"cold_seconds": cold, "warm_seconds": warm}


class Footprint(NamedTuple):
    """The memory of a program on one device, as a line in the number of examples.

    Attributes:
      planned: bytes at the batch sizes PLANNED.
      fixed: bytes of the line without any example.
      example: bytes of one.
    """

    planned: tuple[int, ...]
    fixed: float
    example: float

    def batch(self, gigabytes: int) -> int:
        """The largest batch that fits a device with so much memory; 0 if none does."""
        return max(int((USABLE * gigabytes * 1e9 - self.fixed) / self.example), 0)


def footprint(planned: Callable[[int], int], held: Any, shape: tuple[int, ...]) -> Footprint:
    """The line through a program's bytes at the batch sizes PLANNED.

    Args:
      planned: the bytes at a batch size.
      held: the shapes of what the program holds for any batch. This is the least that is fixed, because memory is not
        quite linear in the batch.
      shape: of an image, in float32 the least that an example takes.
    """
    small, large = map(planned, PLANNED)
    example = max((large - small) / (PLANNED[1] - PLANNED[0]), 4 * math.prod(shape))
    least = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))
    return Footprint((small, large), max(small - PLANNED[0] * example, least), example)


def memory(workload: Workload) -> dict[str, Any]:
    """Bytes of the training step on one device: the fixed part, the part per example, and the batches that fit.

    The fixed part holds the parameters, their average, the optimizer's state and the gradients. The step is compiled
    twice, for the batch sizes PLANNED, and never run.
    """
    began = time.monotonic()
    need = footprint(lambda size: _planned(replace(workload, size=size)), jax.eval_shape(workload.init), workload.shape)
    return {
        "image_shape": workload.shape,
        "planned_bytes": dict(zip(PLANNED, need.planned, strict=True)),
        "fixed_bytes": round(need.fixed),
        "bytes_per_example": round(need.example),
        "batch_per_device": {f"{gb}GB": need.batch(gb) for gb in DEVICES_GB},
        "compile_seconds": (time.monotonic() - began) / 2,
    }


def _planned(workload: Workload) -> int:
    step, inputs = lowering.training_step(workload, jax.devices()[:1])
    return flops.planned_bytes(step.lower(*inputs).compile())


def scaling(workload: Workload) -> dict[str, Any]:
    """The training step on 1, 2, 4 and 8 devices: examples/s per device, and bytes exchanged relative to one gradient.

    Devices simulated with --devices share the cores of one CPU, so only their bytes are meaningful.
    """
    found, parameters = {}, sum(x.nbytes for x in jax.tree.leaves(workload.state.params))
    for count in (n for n in (1, 2, 4, 8) if n <= jax.device_count() and workload.size % n == 0):
        devices = jax.devices()[:count]
        step, state, batch, numbers = workload.compile(devices)
        program = step.lower(state, batch, jax.random.key(0), numbers).compile()  # type: ignore[attr-defined]
        exchanged = collectives.collective_bytes(program.as_text())
        taken = median_seconds(workload.rounds, step=workload.run(devices))["step"]
        found[str(count)] = {
            "examples_per_second_per_device": workload.size / taken / count,
            "collective_bytes": exchanged,
            "over_one_gradient": sum(exchanged.values()) / parameters,
        }
    return found
