"""What a configuration costs on the device at hand, as ratios measured in one run.

python -m fmdp.bench --config=configs/<name>.py [--only=forward,step] [--batch=16] [--out=bench.json]

Sections: `ceilings` (what the device does at best: a large matrix product, a copy), `forward` (the network against its
own convolutions and matrix products run bare, one after another), `step` (the training step of every loss against a
forward pass, and against its bare products), `solve` (plug-and-play of N steps against N forward passes), `sweep` (K
lookaheads against K single ones), `input` (batches delivered against batches trained on, and a loop over fresh batches
against one over the same), `compile` (the training step, cold and from the persistent cache), `devices` (the training
step on 1, 2, 4 and 8 of them, and the bytes that they exchange; --devices=8 simulates them on a CPU), `memory` (of the
training step, planned and not run: fixed and for each example, and the batch that fits devices of 16, 32 and 80 GB).

`forward` and `step` are measured on one device and, under `all_devices`, on all that a run would use: on a CPU, one
each core (`parallel.divide_cpu`). Steps on several devices, in `devices` and `input` too, are in the mode configured.

`utilisation` is the FLOP/s of a program's convolutions and matrix products over those of one large matrix product.

Each time is the median of rounds in which everything compared is run in turn, so that noise of the machine falls on
both sides of a ratio. XLA plans memory for the backend it compiles for: figures taken on a CPU are a guide to an
accelerator, not a promise.
"""

import json
import platform
from functools import partial

import jax
from absl import flags

from fmdp import bench
from fmdp.cli.errors import run_program
from fmdp.cli.flags import CONFIG
from fmdp.config.validation import MAX_CPU_DEVICES, divides_batch, validate, validate_for_devices
from fmdp.errors import InputError
from fmdp.io.files import expand_path, write_json
from fmdp.main import inapplicable_flags
from fmdp.parallel import mesh

ONLY = flags.DEFINE_list("only", [], "The sections to measure; all of them unless given.")
BATCH = flags.DEFINE_integer(
    "batch", None, "Images at a time; those of config.train.batch_size unless given.", lower_bound=1
)
ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each time is taken.", lower_bound=1)
DEVICES = flags.DEFINE_integer("devices", None, "Devices to simulate on a CPU.", 1, MAX_CPU_DEVICES)
OUT = flags.DEFINE_string("out", None, "A JSON file for what was measured, which is printed too.")


def main(_) -> None:
    """Measure what the flags ask for."""
    for name in inapplicable_flags("bench"):
        raise InputError(f"--{name} does nothing in fmdp.bench: leave it out")
    out = expand_path(OUT.value) if OUT.value else None
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out={out}: name a file, in a folder that exists")
    if CONFIG.value is None:
        raise InputError("--config is missing: name a file in configs/, such as --config=configs/celeba.py")
    config = CONFIG.value
    validate(config)
    if BATCH.value:
        config.train.batch_size = BATCH.value
    mesh.divide_cpu(DEVICES.value or config.parallel.cpu_devices, partial(divides_batch, config))
    validate_for_devices(config, mesh.count_devices())
    measured = {
        "config": config.name,
        "network": config.network.to_dict(),
        "batch": config.train.batch_size,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
    } | bench.measure(config, ONLY.value, config.train.batch_size, ROUNDS.value)
    print(json.dumps(measured, indent=2))
    if out:
        write_json(out, measured)


if __name__ == "__main__":
    run_program(main)
