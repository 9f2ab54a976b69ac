"""The devices of a run as a mesh, and how many a CPU is divided into."""

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from fmdp.errors import InputError, reason

AXIS = "data"
MIN_SHARDED_SIZE = 2**12  # numbers in a parameter, below which sharding it costs more than it saves
DEFAULT_CPU_DEVICES = 8  # CPU devices that are made unasked: every one keeps a state of its own


def divide_cpu(devices: int = 0, fits: Callable[[int], bool] = lambda devices: True) -> None:
    """Divide the cores of this process into devices, before JAX starts: one convolution keeps few of them busy.

    Where JAX_NUM_CPU_DEVICES or XLA_FLAGS says how many there shall be, there are. XLA gets more threads than cores
    (NPROC), unless told otherwise: a device that waits in an exchange keeps a thread, and the others need theirs.

    Args:
      devices: how many; 0 for one each core, up to MOST, or as many fewer as fit.
      fits: whether so many do.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flag = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    count = int(flag[1]) if flag else max(jax.config.jax_num_cpu_devices, 0)  # type: ignore[attr-defined]
    if not count:
        count = devices or next((n for n in range(min(cores, DEFAULT_CPU_DEVICES), 1, -1) if fits(n)), 1)
        jax.config.update("jax_num_cpu_devices", count)
    if count > 1:
        os.environ.setdefault("NPROC", str(cores + count))


def count_devices() -> int:
    """The devices of this run; JAX starts here.

    Raises:
      InputError: it cannot start.
    """
    try:
        return jax.device_count()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS") or "any"
        raise InputError(
            f"no device of JAX_PLATFORMS={wanted} starts ({reason(error)}): install JAX for it, or JAX_PLATFORMS=cpu"
        ) from error


@lru_cache(maxsize=8)
def make_mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    """The devices in a row, those of one process side by side, as the rows of its batch are.

    Raises:
      InputError: the processes have different numbers of devices.
    """
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise InputError(
            f"the processes of this run have {', '.join(map(str, counts.values()))} devices: give every one as many"
        )
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def fsdp_spec(shape: tuple[int, ...], devices: int) -> P:
    """How FSDP shards a parameter: along its largest axis that the devices divide; small ones stay whole."""
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if not axes or np.prod(shape) < MIN_SHARDED_SIZE:
        return P()
    largest = max(axes, key=lambda axis: shape[axis])
    return P(*[AXIS if axis == largest else None for axis in range(len(shape))])
