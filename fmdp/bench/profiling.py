"""Where the time of the training step and of the forward pass goes, from a trace by jax.profiler."""

import pathlib
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData, ProfileOptions

from fmdp.bench import kernels, lowering
from fmdp.bench.workload import Workload

RUNS = 3  # traced, after one to warm up
LARGEST = 5  # kernels that are listed by name


class Kernel(NamedTuple):
    """One execution of a kernel: its name, the HLO instruction that it belongs to if known, and its time."""

    name: str
    instruction: str | None
    seconds: float


def profile(workload: Workload) -> dict[str, Any]:
    """The time of the training step over all devices, and of a forward pass on one, by kind of kernel."""
    step, state, batch, numbers = workload.compile(jax.devices())
    key, states = jax.random.key(0), [state]
    trained = step.lower(state, batch, key, numbers).compile()  # type: ignore[attr-defined]

    def one_step():
        states[0], metrics = trained(states[0], batch, key, numbers)
        return metrics

    forward = lowering.forward(workload)
    network = forward.function.lower(*forward.inputs).compile()
    field, inputs = workload.field, (workload.images, *workload.times)
    return {
        "step": time_by_kind(traced(one_step), trained.as_text()),
        "forward": time_by_kind(traced(lambda: network(*field.args, *inputs)), network.as_text()),
    }


def traced(run: Callable[[], Any]) -> list[Kernel]:
    """The kernels of RUNS runs of a compiled program."""
    options = ProfileOptions()
    options.python_tracer_level = 0
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(RUNS):
                jax.block_until_ready(run())
        return [
            kernel
            for path in pathlib.Path(folder).rglob("*.xplane.pb")
            for kernel in read_kernels(ProfileData.from_file(str(path)))
        ]


def read_kernels(trace: ProfileData) -> Iterator[Kernel]:
    """The kernels in a trace.

    A GPU reports kernels by stream, a TPU the instructions in a line of their own, and a CPU the instructions among
    everything else that its threads do.
    """
    for plane in trace.planes:
        on_device, lines = plane.name.startswith("/device:"), list(plane.lines)
        if any(line.name == "XLA Ops" for line in lines):
            lines = [line for line in lines if line.name == "XLA Ops"]
        elif on_device:
            lines = [line for line in lines if line.name.startswith("Stream")]
        for line in lines:
            for event in line.events:
                name, instruction = event.name, dict(event.stats).get("hlo_op")
                if line.name == "XLA Ops":  # which may give the whole text of an instruction as its name
                    name = instruction = re.sub(r"^%?([\w.\-]+).*", r"\1", name, flags=re.DOTALL)
                if on_device or instruction is not None:
                    yield Kernel(name, instruction, event.duration_ns / 1e9)


def time_by_kind(found: Iterable[Kernel], text: str) -> dict[str, Any]:
    """The time of kernels by what they do.

    Args:
      found: the kernels of RUNS runs of a program.
      text: of the compiled program, where the instructions are looked up.

    Returns:
      By kind (`kernels.KINDS`): `seconds` of one run, summed over devices and threads, their `share` of the whole, and
      `kernels`, the number of executions in one run. `largest` has the seconds of the kernels that take longest.
      If there are no kernels, `not_measured` says so.
    """
    known = kernels.instruction_kinds(text)
    by_symbol = {re.sub(r"\W", "_", name): kind for name, kind in known.items()}  # as XLA names the kernels of a GPU
    seconds, counts, largest = defaultdict(float), Counter(), defaultdict(float)  # type: ignore[var-annotated]
    for kernel in found:
        if kernel.name in known and known[kernel.name] is None:
            continue  # a loop: what it runs is in the trace as well
        kind = known.get(kernel.instruction or "") or by_symbol.get(kernel.name) or kernels.kernel_kind(kernel.name)
        seconds[kind] += kernel.seconds / RUNS
        counts[kind] += 1
        largest[f"{kernel.instruction or kernel.name} ({kind})"] += kernel.seconds / RUNS
    if not counts:
        return {"not_measured": "the trace holds no kernels: this device does not let jax.profiler record them"}
    whole = sum(seconds.values())
    by_kind: dict[str, Any] = {
        kind: {"seconds": seconds[kind], "share": seconds[kind] / whole, "kernels": counts[kind] / RUNS}
        for kind in kernels.KINDS
        if kind in counts
    }
    longest = sorted(largest, key=largest.__getitem__, reverse=True)[:LARGEST]
    return by_kind | {"largest": {name: largest[name] for name in longest}}
