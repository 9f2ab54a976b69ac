"""What a configuration costs on the device at hand: python -m fmdp.bench --config=configs/<name>.py [--out=bench.json].

Today it tells how much memory the full train step takes, from the compiled program and without running it: that of
a fixed part (parameters, their average, the optimizer, the gradients) and of every example of the batch, and with
them the largest batch for devices of 16, 32 and 80 GB. XLA plans memory for the backend it compiles for, so figures
taken on a CPU are a guide to an accelerator, not a promise.
"""

import json
import pathlib
import platform
import time
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from fmdp import train
from fmdp.errors import InputError
from fmdp.files import write_json
from fmdp.main import CONFIG, cli

OUT = flags.DEFINE_string("out", None, "A JSON file for what was measured, which is printed too.")
BATCHES = (4, 8)  # from which that of one example is told
DEVICES_GB = (16, 32, 80)
USABLE = 0.9  # of a device's memory: the rest is the runtime's and lost between buffers


def memory(config: ConfigDict) -> dict[str, Any]:
    """Bytes of the compiled train step on one device: fixed, per example, and the batch that fits devices of GB.

    Compiled twice, at batches of BATCHES; nothing is allocated or run. What the program needs beyond its arguments is
    as the compiler plans it.

    Raises:
      InputError: the configuration does not say the size of its images.
    """
    size = config.data.size or config.network.get("resolution", 0)
    if not size:
        raise InputError("config.data.size = 0: say how many pixels a side images have, such as 64")
    shape = (size, size, config.data.channels)
    began = time.monotonic()
    small, large = (step_bytes(config, shape, batch) for batch in BATCHES)
    example = (large - small) / (BATCHES[1] - BATCHES[0])
    fixed = small - BATCHES[0] * example
    fits = {f"{gb}GB": max(int((USABLE * gb * 1e9 - fixed) / example), 0) for gb in DEVICES_GB}
    return {
        "image_shape": shape,
        "fixed_bytes": round(fixed),
        "bytes_per_example": round(example),
        "batch_per_device": fits,
        "compile_seconds": (time.monotonic() - began) / 2,
    }


def step_bytes(config: ConfigDict, shape: tuple[int, int, int], batch: int) -> int:
    """Bytes that the train step at this batch has in use at most, as compiled for one device with a donated state."""
    diagonal = round(config.loss.diagonal_share * batch)
    parts = {"diagonal": diagonal, "off_diagonal": batch - diagonal}
    images = {
        name: {"image": jax.ShapeDtypeStruct((n, *shape), np.float32), "row": jax.ShapeDtypeStruct((n,), np.int32)}
        for name, n in parts.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: train.init_state(config, shape, key), key)
    step = jax.jit(train.make_train_step(config), donate_argnums=0).lower(state, images, key)
    plan = step.compile().memory_analysis()
    if plan is None:
        raise InputError(f"the {jax.default_backend()} backend does not tell what memory a program takes")
    return plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def main(_) -> None:
    """Measure what the flags ask for."""
    if CONFIG.value is None:
        raise InputError("--config is missing: name a file in configs/, such as --config=configs/celeba.py")
    device = jax.devices()[0]
    measured = {
        "config": CONFIG.value.name,
        "network": CONFIG.value.network.to_dict(),
        "device": device.device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "memory": memory(CONFIG.value),
    }
    print(json.dumps(measured, indent=2))
    if OUT.value:
        write_json(pathlib.Path(OUT.value), measured)


if __name__ == "__main__":
    cli(main)
