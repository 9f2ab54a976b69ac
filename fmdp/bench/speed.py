"""The speed of networks, training steps, solvers and sweeps, relative to their products or to plain forward passes."""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fmdp import data, solvers
from fmdp.bench.flops import chain, equation_flops, product_equations, product_flops
from fmdp.bench.workload import Workload, median_seconds, timings
from fmdp.errors import InputError
from fmdp.evaluation import denoising
from fmdp.flow import losses
from fmdp.parallel import batching, data_parallel
from fmdp.parallel import mesh as parallel_modes
from fmdp.parallel.precision import product_type
from fmdp.training.step import make_train_step, step_form

SOLVER_STEPS = 10
LOOKAHEADS = 15
COPY_REPEATS = 5
INPUT_ROUNDS = 7


def ceilings(workload: Workload) -> dict[str, Any]:
    """What the device does at best: FLOP/s of a matrix product in the network's type, bytes/s of a copy."""
    return {"flops_per_second": product_ceiling(workload), "bytes_per_second": copy_ceiling()}


def product_ceiling(workload: Workload) -> float:
    """FLOP/s of one large matrix product in the network's type."""
    size = 8192 if jax.default_backend() in ("gpu", "tpu") else 2048
    a = jnp.ones((size, size), product_type(workload.config.network.get("dtype")) or jnp.float32)
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / median_seconds(workload.rounds, product=lambda: product(a, a))["product"]


def copy_ceiling() -> float:
    """The bytes per second that the device reads and writes at best, both counted.

    One program passes several times over one array, much larger than any cache, and negates it in place. A pass reads
    every byte from memory once and writes it once. The array is donated, so no memory is allocated. The passes are the
    turns of a loop, and the compiler does not know how many, so it cannot fuse one with another. The time is the best
    of several repeats, each with one wait for the device.
    """
    passes, size = (4, 2**28) if jax.default_backend() == "cpu" else (8, 2**32)
    size = min(size, (_device_memory() or 8 * size) // 8)
    array = jnp.ones(size // 4, jnp.float32)

    def seconds() -> float:
        nonlocal array
        began = time.perf_counter()
        array = jax.block_until_ready(negate_in_place(array, passes))
        return time.perf_counter() - began

    seconds()
    return 2 * passes * array.nbytes / min(seconds() for _ in range(COPY_REPEATS))


@partial(jax.jit, donate_argnums=0)
def negate_in_place(x: Array, passes: Array | int) -> Array:
    """An array negated in its own memory, a number of times."""
    return jax.lax.fori_loop(0, passes, lambda _, x: -x, x)


def _device_memory() -> int | None:
    """The bytes of memory of the device, if it says so."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def forward(workload: Workload) -> dict[str, Any]:
    """The network relative to its own products run alone, and to the device's matrix products."""
    field, inputs = workload.field, (workload.images, *workload.times)
    run = jax.jit(field.func).lower(*field.args, *inputs).compile()
    products, flops, bare = _bare(inputs, field)
    peak, peak_of_all = _peaks(workload)
    runs = {"forward": lambda: run(*field.args, *inputs), "bare": bare}
    devices = jax.device_count()
    if devices > 1:
        runs["on all"] = _on_all(workload)
        *_, runs["bare on all"] = _bare(jax.tree.map(lambda x: x[: len(x) // devices], inputs), field, everywhere=True)
    found = median_seconds(workload.rounds, **runs)
    measured: dict[str, Any] = {
        "seconds": found["forward"],
        "products": products,
        "over_bare_products": found["forward"] / found["bare"],
        "gflop": flops / 1e9,
        "utilisation": flops / found["forward"] / peak,
    }
    if devices > 1:
        measured["all_devices"] = {
            "devices": devices,
            "seconds": found["on all"],
            "over_bare_products": found["on all"] / found["bare on all"],
            "over_bare_products_of_one_device": found["on all"] / found["bare"],
            "utilisation": flops / found["on all"] / peak_of_all,
        }
    return measured


def _peaks(workload: Workload) -> tuple[float, float]:
    """FLOP/s of matrix products on one device and on all devices."""
    peak = product_ceiling(workload)
    devices = 1 if jax.default_backend() == "cpu" else jax.device_count()  # devices of a CPU share its cores
    return peak, devices * peak


def _bare(inputs: Any, function: Callable, everywhere: bool = False) -> tuple[int, float, Callable[[], Any]]:
    """The number of products in a function of these inputs, their FLOPs, and a function that runs them alone.

    Args:
      everywhere: run them on every device.
    """
    equations = product_equations(function, *inputs)
    bare, operands = chain(equations, jax.random.key(0))
    if everywhere:
        mesh = parallel_modes.make_mesh(tuple(jax.devices()))
        bare = jax.shard_map(bare, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
        operands = batching.replicate_local(operands)
    compiled = jax.jit(bare).lower(operands).compile()
    return len(equations), float(sum(map(equation_flops, equations))), partial(compiled, operands)


def _on_all(workload: Workload) -> Callable[[], Any]:
    """A forward pass in which every device takes its rows."""
    field, inputs = workload.field, (workload.images, *workload.times)
    mesh = parallel_modes.make_mesh(tuple(jax.devices()))
    rows = NamedSharding(mesh, P(parallel_modes.AXIS))
    run = jax.jit(batching.shard_rows(lambda args, inputs: field.func(*args, *inputs)))
    return partial(run, batching.replicate_local(field.args), jax.device_put(inputs, rows))


def step(workload: Workload) -> dict[str, Any]:
    """The training step of every off-diagonal loss, relative to one forward pass and to its own products."""
    field, inputs, batch, key = workload.field, (workload.images, *workload.times), workload.batch(), jax.random.key(0)
    runs: dict[str, Callable[[], Any]] = {"forward": partial(jax.jit(field.func), *field.args, *inputs)}
    state, flops, (peak, peak_of_all) = step_form(workload.config, workload.state), {}, _peaks(workload)
    for name in losses.OFF_DIAGONAL:
        config = workload.config.copy_and_resolve_references()
        config.loss.off_diagonal = name
        trained = make_train_step(config)
        runs[name] = partial(jax.jit(trained), state, batch, key)
        _, flops[name], runs[f"{name} bare"] = _bare((state, batch, key), trained)
    devices, chosen = jax.device_count(), workload.config.loss.off_diagonal
    if devices > 1:
        runs |= {"on all": workload.run(jax.devices()), "forward on all": _on_all(workload)}
    found = median_seconds(workload.rounds, **runs)
    measured: dict[str, Any] = {
        name: {
            "seconds": found[name],
            "over_forward": found[name] / found["forward"],
            "over_bare_products": found[name] / found[f"{name} bare"],
            "examples_per_second": workload.size / found[name],
            "utilisation": flops[name] / found[name] / peak,
        }
        for name in losses.OFF_DIAGONAL
    }
    if devices > 1:
        measured["all_devices"] = {
            "devices": devices,
            "off_diagonal": chosen,
            "seconds": found["on all"],
            "over_forward": found["on all"] / found["forward on all"],
            "over_one_device": found["on all"] / found[chosen],
            "over_forward_of_one_device": found["on all"] / found["forward"],
            "over_bare_products_of_one_device": found["on all"] / found[f"{chosen} bare"],
            "utilisation": flops[chosen] / found["on all"] / peak_of_all,
        }
    return measured


def solve(workload: Workload) -> dict[str, Any]:
    """SOLVER_STEPS steps of plug-and-play on a batch, relative to as many forward passes."""
    field, x, times = workload.field, workload.images, workload.times
    observed, keys = workload.measurements(x)
    restore = solvers.make("pnp", steps=SOLVER_STEPS)
    several = jax.vmap(lambda *given: restore(field, *given))
    run = jax.jit(several)
    once = jax.jit(field.func)
    found = median_seconds(
        workload.rounds, solve=lambda: run(observed, keys), forward=lambda: once(*field.args, x, *times)
    )
    peak, _ = _peaks(workload)
    return {
        "steps": SOLVER_STEPS,
        "over_forwards": found["solve"] / found["forward"] / SOLVER_STEPS,
        "utilisation": product_flops(several, observed, keys) / found["solve"] / peak,
    }


def sweep(workload: Workload) -> dict[str, Any]:
    """LOOKAHEADS lookaheads in one call, relative to as many calls with one lookahead."""
    field, x, s = workload.field, workload.images, jnp.float32(0.5)
    many, one = jnp.linspace(0, 1, LOOKAHEADS), jnp.array([0.5])
    traces = []

    @jax.jit
    def walk(x, many):
        traces.append(many.shape)
        return denoising.sweep_lookaheads(field, x, s, many)

    found = median_seconds(workload.rounds, sweep=lambda: walk(x, many), single=lambda: walk(x, one))
    return {
        "lookaheads": LOOKAHEADS,
        "over_single_ones": found["sweep"] / found["single"] / LOOKAHEADS,
        "compiled": traces.count(many.shape),
    }


def input_pipeline(workload: Workload) -> dict[str, Any]:
    """Batches delivered per training step, and a loop over fresh batches relative to a loop over the same batch.

    Batches are placed ahead, as in a run. The loops take turns, and their ratio is the median over pairs of neighbours.
    """
    config, devices = workload.config, jax.devices()
    try:
        images = data.load_split(config.data).train
    except InputError as error:
        return {"not_measured": str(error)}
    iterator = data.batches(images, workload.size, 0, **data.batch_options(config.data))
    place = data_parallel.make_train_mode(config.parallel.mode, devices).place_batch
    steps = max(workload.rounds, 50)
    batch, ahead = place(next(iterator)), data.placed_ahead(iterator, place, sys.maxsize)
    same, fresh = workload.run(devices, lambda: batch), workload.run(devices, lambda: next(ahead)[0])

    def several(step):
        for _ in range(steps):
            metrics = step()
        return metrics

    found = timings(INPUT_ROUNDS, loop=lambda: several(fresh), step=lambda: several(same))
    began = time.perf_counter()
    for _ in range(steps):
        jax.block_until_ready(place(next(iterator)))
    each = (time.perf_counter() - began) / steps
    iterator.close()
    return {
        "seconds_per_batch": each,
        "batches_in_a_step": statistics.median(found["step"]) / steps / each,
        "loop_over_steps": statistics.median(a / b for a, b in zip(found["loop"], found["step"], strict=True)),
    }
