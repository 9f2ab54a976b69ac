"""Work on batches sharded over all devices of the run, the parameters whole on each; every process gets all results.

So all processes go the same way, and only process 0 writes (`fmdp.io.files`).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fmdp.parallel.mesh import AXIS, make_mesh


def replicate(tree: Any) -> Any:
    """A state or part of one, sharded over the devices of the run, whole on each of them."""
    return _copy(make_mesh(tuple(jax.devices())))(tree)


@lru_cache(maxsize=8)
def _copy(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def single_device(tree: Any) -> Any:
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


def replicate_local(tree: Any) -> Any:
    """Arrays that this process has on any of its devices, whole on each of them."""
    return jax.device_put(tree, NamedSharding(make_mesh(tuple(jax.local_devices())), P()))


def shard_rows(
    function: Callable[[Any, Any], Any], devices: Sequence[jax.Device] | None = None
) -> Callable[[Any, Any], Any]:
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
    return shard_rows(several, devices)(shared, filled)[:n]
