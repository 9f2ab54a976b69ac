"""What a configuration costs on the device at hand, as ratios measured in one run.

python -m fmdp.bench --config=configs/<name>.py [--only=forward,step] [--batch=16] [--out=bench.json]

Sections:
- `ceilings`: the best that the device can do, on a large matrix product and on a copy (bytes read and written).
- `forward`: the network, relative to its own convolutions and matrix products run alone, one after another.
- `step`: the training step of every loss, relative to a forward pass and to its own products.
- `solve`: N steps of plug-and-play, relative to N forward passes.
- `sweep`: K lookaheads in one call, relative to K calls with one.
- `input`: batches delivered in the time of one training step, and a loop over fresh batches relative to a loop over
  the same batch.
- `profile`: the time of the training step and of a forward pass by kind of kernel: convolution, product, reduction,
  elementwise, copy, other.
- `program`: the training step, the forward pass and the initial state as StableHLO: lines, convolutions and the most
  frequent operations, with the seconds of tracing, lowering and compiling. --compile=False leaves compiling out.
- `compile`: the training step, cold and from the persistent cache.
- `devices`: the training step on 1, 2, 4 and 8 devices, and the bytes that they exchange; --devices=8 simulates the
  devices on a CPU.
- `memory`: of the training step, planned but not run: the fixed part, the part per example, and the batch that fits
  devices of 16, 32 and 80 GB.

Each section is printed, and written to --out, as soon as it is measured; all that is printed is one JSON object.

`forward` and `step` are measured on one device and, under `all_devices`, on all devices that a run would use; a CPU is
divided into one device per core (`parallel.mesh.divide_cpu`). Steps on several devices use the configured mode.

`utilisation` is the FLOP/s of a program's convolutions and matrix products over those of one large matrix product. They
are counted from the shapes in the program itself, so the count is the same on every backend.

--target plans `memory` for machines that are not at hand, by one name or several:
- tpu:v5e:2x2 compiles for the chips of that slice with the TPU's own compiler, which takes minutes: bytes of HBM,
  FLOPs, bytes accessed, collectives and seconds to compile, of the training step with and without FSDP and of
  plug-and-play.
  --target_programs=train,train_fsdp,restore chooses among them.
- gpu:24 says which batch fits a GPU of 24 GB, from the memory of the programs that the backend at hand compiles.

Each time is a median over rounds. Within a round, everything that is compared runs in turn, so that noise of the
machine affects both sides of a ratio. XLA plans memory for the backend that it compiles for: figures from a CPU are
only a guide to an accelerator.
"""

import json
import platform
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
from absl import flags

from fmdp import bench
from fmdp.bench import planning, targets
from fmdp.cli.errors import run_program
from fmdp.cli.flags import given_config
from fmdp.config.validation import MAX_CPU_DEVICES, divides_batch, validate, validate_for_devices
from fmdp.errors import InputError
from fmdp.io.files import expand_path, write_json
from fmdp.main import inapplicable_flags
from fmdp.parallel import mesh
from fmdp.parallel.precision import use_precision

ONLY = flags.DEFINE_list("only", [], "The sections to measure; all of them by default.")
BATCH = flags.DEFINE_integer("batch", None, "Images at a time; config.train.batch_size by default.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 15, "How many timings each median is taken over.", lower_bound=1)
DEVICES = flags.DEFINE_integer("devices", None, "Devices to simulate on a CPU.", 1, MAX_CPU_DEVICES)
COMPILE = flags.DEFINE_bool("compile", True, "Whether the section program also compiles what it lowers.")
TARGET = flags.DEFINE_list("target", [], "Machines to plan memory for, such as tpu:v5e:2x2 or gpu:24.")
TARGET_PROGRAMS = flags.DEFINE_list("target_programs", [], f"What to plan there: {', '.join(planning.PROGRAMS)}.")
OUT = flags.DEFINE_string("out", None, "A JSON file for the results, written again after each section.")


def main(_) -> None:
    """Measure what the flags ask for."""
    for name in inapplicable_flags("bench"):
        raise InputError(f"--{name} does nothing in fmdp.bench: leave it out")
    out = expand_path(OUT.value) if OUT.value else None
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out={out}: name a file, in a folder that exists")
    sections = bench.choose(ONLY.value)
    if not COMPILE.value and "program" not in sections:
        raise InputError("--compile=False applies to the section program: add it to --only, or leave --compile out")
    config = given_config()
    validate(config)
    use_precision(config.precision)
    if BATCH.value:
        config.train.batch_size = BATCH.value
    machines = _machines(sections)
    if machines:
        targets.prepare(machines)
    else:
        mesh.divide_cpu(DEVICES.value or config.parallel.cpu_devices, partial(divides_batch, config))
    devices = mesh.count_devices()
    results: Iterable[tuple[str, dict[str, Any]]]
    if machines:
        results = [("memory", planning.plan(config, machines, TARGET_PROGRAMS.value))]
    else:
        validate_for_devices(config, devices)
        results = bench.measure(config, sections, config.train.batch_size, ROUNDS.value, COMPILE.value)
    measured: dict[str, Any] = {
        "config": config.name,
        "network": config.network.to_dict(),
        "batch": config.train.batch_size,
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
    }
    print(f"{{\n{_members(measured)},", flush=True)
    for name, found in results:
        measured[name] = found
        print(_members({name: found}), end="\n}\n" if name == sections[-1] else ",\n", flush=True)
        if out:
            write_json(out, measured)


def _machines(sections: list[str]) -> list[targets.Tpu | targets.Gpu]:
    """The machines of --target; none if it is not given."""
    machines = [targets.parse(name) for name in TARGET.value]
    if machines and sections != ["memory"]:
        raise InputError(f"--target={','.join(TARGET.value)} plans memory: add --only=memory, and no other section")
    if machines and flags.FLAGS["devices"].present:
        raise InputError("--devices does nothing with --target: leave it out")
    return machines


def _members(measured: dict[str, Any]) -> str:
    """The members of a JSON object, without its braces."""
    return json.dumps(measured, indent=2)[2:-2]


if __name__ == "__main__":
    run_program(main)
