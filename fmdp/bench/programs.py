"""What compiled programs take: the time to compile them, the memory they are planned with, what devices exchange."""

import tempfile
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from fmdp.bench import collectives, flops
from fmdp.bench.workload import Workload, median_seconds
from fmdp.training.step import make_train_step

PLANNED = (4, 8)  # batches from whose memory that of one example is told
DEVICES_GB = (16, 32, 80)
USABLE = 0.9  # of a device's memory: the rest is the runtime's, and lost between buffers
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def compiling(subject: Workload) -> dict[str, Any]:
    """Seconds until the training step is compiled, without a persistent cache and from a warm one."""
    lowered = partial(jax.jit(make_train_step(subject.config)).lower, subject.state, subject.batch())

    def timed():
        jax.clear_caches()
        compilation_cache.reset_cache()
        began = time.perf_counter()
        lowered(jax.random.key(0)).compile()
        return time.perf_counter() - began

    before = {name: getattr(jax.config, name) for name in CACHE}
    with tempfile.TemporaryDirectory() as folder:
        for name, value in zip(CACHE, (folder, 0.0), strict=True):
            jax.config.update(name, value)
        cold, warm = timed(), timed()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    return {"cold_seconds": cold, "warm_seconds": warm}


def memory(subject: Workload) -> dict[str, Any]:
    """Bytes of the training step on one device: fixed, for each example, and the batch that fits devices of GB.

    The fixed part is parameters, their average, the optimizer's and the gradients. Compiled twice, at batches of
    PLANNED; nothing is run.
    """
    began = time.monotonic()
    small, large = (_planned(replace(subject, size=size)) for size in PLANNED)
    example = (large - small) / (PLANNED[1] - PLANNED[0])
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(subject.init)))
    fixed = max(small - PLANNED[0] * example, held)  # the state at least: memory is not quite linear in the batch
    fits = {f"{gb}GB": max(int((USABLE * gb * 1e9 - fixed) / example), 0) for gb in DEVICES_GB}
    return {
        "image_shape": subject.shape,
        "planned_bytes": dict(zip(PLANNED, (small, large), strict=True)),
        "fixed_bytes": round(fixed),
        "bytes_per_example": round(example),
        "batch_per_device": fits,
        "compile_seconds": (time.monotonic() - began) / 2,
    }


def _planned(subject: Workload) -> int:
    state, batch, key = jax.eval_shape(lambda: (subject.init(), subject.batch(), jax.random.key(0)))
    run = jax.jit(make_train_step(subject.config), donate_argnums=0)
    return flops.planned_bytes(run.lower(state, batch, key).compile())


def scaling(subject: Workload) -> dict[str, Any]:
    """The training step on 1, 2, 4, 8 devices: examples/s on each, and bytes exchanged a step against one gradient.

    Devices that --devices simulates share the cores of one CPU: there only the bytes mean anything.
    """
    found, parameters = {}, sum(x.nbytes for x in jax.tree.leaves(subject.state.params))
    for count in (n for n in (1, 2, 4, 8) if n <= jax.device_count() and subject.size % n == 0):
        devices = jax.devices()[:count]
        step, state, batch = subject.compile(devices)
        program = step.lower(state, batch, jax.random.key(0)).compile()  # type: ignore[attr-defined]
        exchanged = collectives.collective_bytes(program.as_text())
        taken = median_seconds(subject.rounds, step=subject.run(devices))["step"]
        found[str(count)] = {
            "examples_per_second_per_device": subject.size / taken / count,
            "collective_bytes": exchanged,
            "over_one_gradient": sum(exchanged.values()) / parameters,
        }
    return found
