"""The programs of a configuration before they run: how large they are, and how long it takes to make them.

A program is planned from shapes alone. Nothing is allocated, so the network may be larger than the machine.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax

from fmdp.bench.caches import without_persistent_cache
from fmdp.bench.workload import Workload
from fmdp.parallel import data_parallel
from fmdp.training.hyperparameters import hyperparameters
from fmdp.training.state import first_state, init_params, make_field, make_network
from fmdp.training.step import make_train_step, step_form

FREQUENT = 6  # operations that the section lists
_OPERATION = re.compile(
    r'^\s*(?:%[\w:#, %]+ = )?"?(?:(?:stablehlo|chlo|sdy)\.(?!return)(\w+)|(?:func\.)?(call)\b)', re.M
)


class Program(NamedTuple):
    """A function of `jax.jit` or `jax.pmap` and what it is lowered for: arrays, or shapes in their place."""

    function: Any
    inputs: tuple[Any, ...]


def training_step(workload: Workload, devices: Sequence[jax.Device]) -> Program:
    """The step (state, batch, key, numbers) that a run over these devices compiles, in the configured mode."""
    config = workload.config
    mode = data_parallel.make_train_mode(config.parallel.mode, devices, config.parallel.fsdp)
    state = mode.layout(jax.eval_shape(lambda: step_form(config, workload.init())))
    batch, key = jax.eval_shape(lambda: (_fresh(workload).batch(), jax.random.key(0)))
    if config.parallel.mode == "pmap":
        each = (len(devices), workload.size // len(devices))
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*each, *x.shape[1:]), x.dtype), batch)
    return Program(mode.compile(partial(make_train_step, config), state), (state, batch, key, hyperparameters(config)))


def forward(workload: Workload) -> Program:
    """The network on one device."""
    field: Any = make_field(make_network(workload.config), jax.eval_shape(workload.init).ema)
    return Program(
        jax.jit(field.func), (*field.args, *jax.eval_shape(lambda: (_fresh(workload).images, *workload.times)))
    )


def initial_state(workload: Workload, devices: Sequence[jax.Device]) -> Program:
    """What makes the state at step 0 over these devices from the parameters, which are drawn before one by one."""
    config = workload.config
    mode = data_parallel.make_train_mode(config.parallel.mode, devices, config.parallel.fsdp)
    shapes = jax.eval_shape(workload.init)
    shardings = jax.tree.map(lambda x: x.sharding, mode.layout(shapes))
    return Program(jax.jit(partial(first_state, config), out_shardings=shardings), (shapes.params,))


def draw_seconds(workload: Workload) -> float:
    """The seconds to draw the parameters with nothing in any cache."""
    jax.clear_caches()
    with without_persistent_cache():
        began = time.perf_counter()
        jax.block_until_ready(init_params(workload.config, workload.shape, jax.random.key(0)))
        return time.perf_counter() - began


def _fresh(workload: Workload) -> Workload:
    """The same without images, so that tracing leaves none behind."""
    return replace(workload)


def program(workload: Workload) -> dict[str, Any]:
    """The size of the training step, of the forward pass and of the initial state, and the seconds to make each.

    The step and the state are those of a run over all devices. See `measure_program` for what is reported. Where
    programs are compiled, `draw_seconds` is the time to draw the parameters.
    """
    devices = jax.devices()
    makers: dict[str, Callable[[], Program]] = {
        "step": lambda: training_step(workload, devices),
        "forward": lambda: forward(workload),
        "initial_state": lambda: initial_state(workload, devices),
    }
    found = {name: measure_program(make(), workload.compiles) for name, make in makers.items()}
    if workload.compiles:
        found["initial_state"]["draw_seconds"] = draw_seconds(workload)
    return found


def measure_program(planned: Program, compiles: bool) -> dict[str, Any]:
    """The size of a program, and the seconds of tracing, lowering and compiling it with nothing in any cache.

    Returns:
      The counts of `count_operations`, with `trace_seconds`, `lower_seconds` and, if it is compiled,
      `compile_seconds`. `jax.pmap` traces and lowers at once: `trace_seconds` is then missing.
    """
    taken = {}

    def timed(name: str, function: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        result = function(*args)
        taken[f"{name}_seconds"] = time.perf_counter() - began
        return result

    jax.clear_caches()  # tracing reuses the parts that are the same in another program
    if hasattr(planned.function, "trace"):
        lowered = timed("lower", timed("trace", planned.function.trace, *planned.inputs).lower)
    else:
        lowered = timed("lower", planned.function.lower, *planned.inputs)
    if compiles:
        with without_persistent_cache():
            timed("compile", lowered.compile)
    return count_operations(lowered.as_text()) | taken


def count_operations(text: str) -> dict[str, Any]:
    """The lines, the convolutions and the FREQUENT most frequent operations of a StableHLO text.

    An operation in the body of a loop, or in a function that is called several times, counts once. Operations between
    two elements within a reduction do not count.
    """
    counts = Counter(name or call for name, call in _OPERATION.findall(text))
    return {
        "lines": text.count("\n"),
        "convolutions": counts["convolution"],
        "frequent": dict(counts.most_common(FREQUENT)),
    }
