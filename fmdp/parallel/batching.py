"""Work on batches that are sharded over all devices of the run, with the parameters replicated on each.

Every process gets all results. All processes therefore take the same path, and only process 0 writes (`fmdp.io.files`).
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
    """A state, or part of one, that is sharded over the devices of the run, replicated on each of them."""
    return _copy(make_mesh(tuple(jax.devices())))(tree)


@lru_cache(maxsize=8)
def _copy(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))


def single_device(tree: Any) -> Any:
    """Replicated arrays as arrays on one device of this process, for work that is not shared."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, Array) else x, tree)


def in_batches(function: Callable[[Any], Any], inputs: Any, size: int, axis: int = 0) -> Any:
    """The outputs of `function` for inputs [n, ...] as host arrays, computed in equal batches that all devices share.

    Batches start at multiples of `size` for any number of devices. The last batch, and batches whose size is not a
    multiple of the devices, are padded with the first inputs; the padding is removed from the outputs.

    Args:
      function: compiled, for a batch [size or a little more, ...]; treats every row separately.
      inputs: a pytree of arrays, equal in all processes.
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
    """Arrays on any devices of this process, replicated on each of them."""
    return jax.device_put(tree, NamedSharding(make_mesh(tuple(jax.local_devices())), P()))


def shard_rows(
    function: Callable[[Any, Any], Any], devices: Sequence[jax.Device] | None = None
) -> Callable[[Any, Any], Any]:
    """`function` of (shared, rows), applied by every device to its own rows where the compiler would not split them.

    Args:
      devices: by default all devices of the run.
    """
    mesh = make_mesh(tuple(devices or jax.devices()))
    return jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)


def map_rows(function: Callable[[Any, Array], Array], shared: Any, rows: Array, size: int) -> Array:
    """`function(shared, row)` for all rows [n, ...]; each device handles its own rows, at most `size` at once.

    It is for compiled functions of one process, with `shared` arrays from `replicate_local`.
    """

    def several(shared, rows):
        return jax.lax.map(lambda row: function(shared, row), rows, batch_size=min(size, len(rows)))

    n, devices = len(rows), jax.local_devices()
    if len(devices) == 1:
        return several(shared, rows)
    filled = rows[np.arange(-(-n // len(devices)) * len(devices)) % n]
    return shard_rows(several, devices)(shared, filled)[:n]
