"""Work on any number of devices and processes that gives the numbers of one device.

Training: every device takes the gradient on its rows of the batch, the mean of these is exchanged once a step, and the
update follows, in one of two modes:
`jit`: one program over the global batch and state, sharded along a mesh. With `fsdp` the large parameters, their
  averages and the optimizer's state lie sharded over the devices; a step gathers the parameters and scatters the
  gradient, so that only these two are ever whole on a device.
`pmap`: one program per device over its part of the batch.

Measuring: batches sharded over all devices of the run, the parameters whole on each; every process gets all results,
so that all of them go the same way, and only process 0 writes (`fmdp.files`).
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fmdp.errors import InputError, reason

AXIS = "data"
MODES = ("jit", "pmap")
Spread = Callable[[Callable[..., Any]], Callable[..., Any]]
SMALL = 2**12  # numbers in a parameter, below which sharding it costs more than it saves
MOST = 8  # CPU devices that are made unasked: every one keeps a state of its own


class Parallel(NamedTuple):
    """How a step runs on the devices.

    A state has two forms: the one that checkpoints and measurements see, arrays over all devices of the run, and the
    one that the step takes and returns. They differ only with several processes in `pmap` mode.

    Attributes:
      layout: the shapes of a state, to shapes with shardings over all devices.
      place_state: a state over all devices, or in this process only, to the step's form.
      collect: the step's form, to one over all devices.
      place_batch: puts a host batch (this process's rows of it) on the devices.
      compile: turns `make_step(spread)`, which builds (state, batch, key) -> (state, metrics), into the compiled step
        for states like the given one, in the step's form. The state handed to it is used up. `spread`
        turns a gradient, (params, batch, key) -> (values, gradient), into that of the whole batch, the mean over the
        devices.
    """

    layout: Callable[[Any], Any]
    place_state: Callable[[Any], Any]
    collect: Callable[[Any], Any]
    place_batch: Callable[[Any], Any]
    compile: Callable[[Callable[[Spread], Callable], Any], Callable]


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
        count = devices or next((n for n in range(min(cores, MOST), 1, -1) if fits(n)), 1)
        jax.config.update("jax_num_cpu_devices", count)
    if count > 1:
        os.environ.setdefault("NPROC", str(cores + count))


def count() -> int:
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


def make(mode: str, devices: Sequence[jax.Device], fsdp: bool = False) -> Parallel:
    """The given mode, one of MODES, over the given devices.

    Args:
      fsdp: shard the large parameters over the devices; in `jit` mode only.

    Raises:
      InputError: the processes have different numbers of devices.
    """
    mesh = make_mesh(tuple(devices))
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))

    def layout(shapes):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, shard(x.shape, mesh.size)) if fsdp else whole
            ),
            shapes,
        )

    if mode == "pmap":
        here = make_mesh(tuple(device for device in devices if device.process_index == jax.process_index()))
        several = mesh.size > here.size

        def mean(gradient):
            return lambda params, batch, key: jax.lax.pmean(gradient(params, batch, key), AXIS)

        def own(x):
            x = x.addressable_data(0) if isinstance(x, Array) and not x.is_fully_addressable else x
            return jax.device_put(x, NamedSharding(here, P()))

        def split(x):
            return np.reshape(x, (here.size, len(x) // here.size, *x.shape[1:]))

        return Parallel(
            layout=layout,
            place_state=lambda state: jax.tree.map(own, state),
            collect=lambda state: (
                multihost_utils.host_local_array_to_global_array(state, mesh, P()) if several else state
            ),
            place_batch=lambda batch: jax.tree.map(split, batch),
            compile=lambda make_step, state: jax.pmap(
                make_step(mean),
                AXIS,
                in_axes=(None, 0, None),
                out_axes=None,
                devices=mesh.devices.tolist(),
                donate_argnums=0,
            ),
        )

    def spread(gradient):
        def whole_batch(params, batch, key):
            specs = jax.tree.map(lambda x: shard(x.shape, mesh.size) if fsdp else P(), params)

            def rows_of_one(params, batch, key):
                values, grads = gradient(jax.tree.map(_gather, params, specs), batch, key)
                return jax.lax.pmean(values, AXIS), jax.tree.map(_scatter, grads, specs)

            return jax.shard_map(
                rows_of_one, mesh=mesh, in_specs=(specs, P(AXIS), P()), out_specs=(P(), specs), check_vma=False
            )(params, batch, key)

        return whole_batch

    def compiled(make_step, state):
        shardings = jax.tree.map(lambda x: x.sharding, state)
        return jax.jit(
            make_step(spread),
            in_shardings=(shardings, rows, whole),
            out_shardings=(shardings, whole),
            donate_argnums=0,
        )

    return Parallel(
        layout=layout,
        place_state=lambda state: jax.device_put(state, jax.tree.map(lambda x: x.sharding, layout(state))),
        collect=lambda state: state,
        place_batch=lambda batch: jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), batch),
        compile=compiled,
    )


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


def shard(shape: tuple[int, ...], devices: int) -> P:
    """How FSDP shards a parameter: along its largest axis that the devices divide; small ones stay whole."""
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    if not axes or np.prod(shape) < SMALL:
        return P()
    largest = max(axes, key=lambda axis: shape[axis])
    return P(*[AXIS if axis == largest else None for axis in range(len(shape))])


def _gather(x: Array, spec: P) -> Array:
    return jax.lax.all_gather(x, AXIS, axis=spec.index(AXIS), tiled=True) if AXIS in spec else x


def _scatter(x: Array, spec: P) -> Array:
    """The shard that this device keeps of the mean over the devices."""
    if AXIS not in spec:
        return jax.lax.pmean(x, AXIS)
    return jax.lax.psum_scatter(x, AXIS, scatter_dimension=spec.index(AXIS), tiled=True) / jax.lax.axis_size(AXIS)


def replicate(tree: Any) -> Any:
    """A state or part of one, sharded over the devices of the run, whole on each of them."""
    return _copy(make_mesh(tuple(jax.devices())))(tree)


@lru_cache(maxsize=8)
def _copy(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def local(tree: Any) -> Any:
    """What is whole on every device as arrays of one device of this process, for work that is not shared out."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, Array) else x, tree)


def in_batches(function: Callable[[Any], Any], inputs: Any, size: int, axis: int = 0) -> Any:
    """`function` over inputs [n, ...], in batches of one size that all devices share; host arrays of all outputs.

    Batches start at the multiples of `size` whatever the number of devices. What is missing in the last, or up to a
    multiple of the devices, is filled up with the first inputs again, and cut off from the outputs.

    Args:
      function: compiled, of a batch [size or a little more, ...], row by row.
      inputs: a pytree of arrays, the same in every process.
      size: of a batch over all devices.
      axis: of the rows in the outputs.
    """
    mesh = make_mesh(tuple(jax.devices()))
    inputs = jax.tree.map(np.asarray, inputs)
    n, length = len(jax.tree.leaves(inputs)[0]), -(-size // mesh.size) * mesh.size

    def batch(start):
        def place(x):
            part, rows = x[np.arange(start, start + length) % n], NamedSharding(mesh, P(AXIS))
            return jax.make_array_from_callback(part.shape, rows, part.__getitem__)

        outputs = multihost_utils.process_allgather(function(jax.tree.map(place, inputs)), tiled=True)
        return jax.tree.map(lambda y: np.asarray(y).take(range(min(size, n - start)), axis), outputs)

    return jax.tree.map(lambda *y: np.concatenate(y, axis), *map(batch, range(0, n, size)))


def everywhere(tree: Any) -> Any:
    """Arrays that this process has on any of its devices, whole on each of them."""
    return jax.device_put(tree, NamedSharding(make_mesh(tuple(jax.local_devices())), P()))


def each(function: Callable[[Any, Any], Any], devices: Sequence[jax.Device] | None = None) -> Callable[[Any, Any], Any]:
    """`function` of (shared, rows) by every device on its own rows, for what the compiler would not split by itself.

    Args:
      devices: all of the run unless given.
    """
    mesh = make_mesh(tuple(devices or jax.devices()))
    return jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)


def map_rows(function: Callable[[Any, Array], Array], shared: Any, rows: Array, size: int) -> Array:
    """`function(shared, row)` for all rows [n, ...], each device its own ones, at most `size` at once.

    For use within compiled functions of one process, whose `shared` arrays come from `everywhere`.
    """

    def several(shared, rows):
        return jax.lax.map(lambda row: function(shared, row), rows, batch_size=min(size, len(rows)))

    n, devices = len(rows), jax.local_devices()
    if len(devices) == 1:
        return several(shared, rows)
    filled = rows[np.arange(-(-n // len(devices)) * len(devices)) % n]
    return each(several, devices)(shared, filled)[:n]
