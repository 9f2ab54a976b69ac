"""One training step on any number of devices, in one of two modes that give the same numbers.

`jit`: one program over the global batch, sharded along a mesh; the compiler adds the gradient's all-reduce.
`pmap`: one program per device over its part of the batch, with the mean of the gradients taken by hand.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"
MODES = ("jit", "pmap")


class Parallel(NamedTuple):
    """How a step runs on the devices.

    Attributes:
      compile: turns `make_step(axis)`, which builds (state, batch, key) -> (state, metrics), into the compiled step.
        The state handed to it is used up.
      place_batch: puts a host batch (this process's rows of it) on the devices.
      place_state: puts a state on every device.
    """

    compile: Callable[[Callable[[str | None], Callable]], Callable]
    place_batch: Callable[[Any], Any]
    place_state: Callable[[Any], Any]


def make(mode: str, devices: Sequence[jax.Device]) -> Parallel:
    """The given mode, one of MODES, over the given devices."""
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))

    def place_state(state):
        return jax.device_put(state, replicated)

    if mode == "pmap":
        local = [device for device in devices if device.process_index == jax.process_index()]

        def split(x):
            return np.reshape(x, (len(local), len(x) // len(local), *x.shape[1:]))

        return Parallel(
            compile=lambda make_step: jax.pmap(
                make_step(AXIS), AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices
            ),
            place_batch=lambda batch: jax.tree.map(split, batch),
            place_state=place_state,
        )
    return Parallel(
        compile=lambda make_step: jax.jit(
            make_step(None),
            in_shardings=(replicated, sharded, replicated),
            out_shardings=replicated,
            donate_argnums=0,
        ),
        place_batch=lambda batch: jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharded, x), batch),
        place_state=place_state,
    )
