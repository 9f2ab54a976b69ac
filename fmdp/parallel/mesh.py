"""The devices of a run as a mesh, and the division of a CPU into devices."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from fmdp.errors import InputError, translating

AXIS = "data"
MIN_SHARDED_SIZE = 2**12  # numbers in a parameter; sharding smaller ones costs more than it saves
DEFAULT_CPU_DEVICES = 8  # the largest default number: each device keeps a copy of the state


def divide_cpu(devices: int = 0, fits: Callable[[int], bool] = lambda devices: True) -> None:
    """Divide the cores of this process into devices before JAX starts, because one convolution uses few of them.

    JAX_NUM_CPU_DEVICES or a number in XLA_FLAGS takes precedence. Unless NPROC is set, XLA gets more threads than
    cores: a device that waits for the others occupies a thread, and with no spare threads the devices can deadlock.

    Args:
      devices: their number; 0 means one per core, up to DEFAULT_CPU_DEVICES, or the largest smaller number that fits.
      fits: whether a number of devices is possible.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flag = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    count = int(flag[1]) if flag else max(jax.config.jax_num_cpu_devices, 0)  # type: ignore[attr-defined]
    if not count:
        count = devices or next((n for n in range(min(cores, DEFAULT_CPU_DEVICES), 1, -1) if fits(n)), 1)
        with contextlib.suppress(RuntimeError):  # JAX has started already, in a notebook: its devices stay
            jax.config.update("jax_num_cpu_devices", count)
    if count > 1:
        os.environ.setdefault("NPROC", str(cores + count))


def count_devices() -> int:
    """The number of devices of this run; JAX starts here.

    Raises:
      InputError: JAX cannot start.
    """
    wanted, remedy = os.environ.get("JAX_PLATFORMS") or "any", "install JAX for it, or set JAX_PLATFORMS=cpu"
    message = "no device of JAX_PLATFORMS={} starts ({}): {}"
    with translating(lambda why: message.format(wanted, why, remedy), RuntimeError, AssertionError):
        return jax.device_count()


@lru_cache(maxsize=8)
def make_mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    """The devices in one row, with those of a process side by side, like the rows of its batch.

    Raises:
      InputError: the processes have different numbers of devices.
    """
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        each = ", ".join(map(str, counts.values()))
        raise InputError(f"the processes of this run have {each} devices: give all processes the same number")
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def fsdp_spec(shape: tuple[int, ...], devices: int) -> P:
    """How FSDP shards a parameter: along the largest axis that the devices divide; small ones are replicated."""
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if not axes or np.prod(shape) < MIN_SHARDED_SIZE:
        return P()
    largest = max(axes, key=lambda axis: shape[axis])
    return P(*[AXIS if axis == largest else None for axis in range(len(shape))])
