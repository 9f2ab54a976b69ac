"""A training step on any number of devices and processes that gives the numbers of one device.

Every device takes the gradient on its rows of the batch, the mean of these is exchanged once a step, and the update
follows, in one of two modes:
`jit`: one program over the global batch and state, sharded along a mesh. With `fsdp` the large parameters, their
  averages and the optimizer's state lie sharded over the devices; a step gathers the parameters and scatters the
  gradient, so that only these two are ever whole on a device.
`pmap`: one program per device over its part of the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fmdp.parallel.mesh import AXIS, fsdp_spec, make_mesh

MODES = ("jit", "pmap")


GradientTransform = Callable[[Callable[..., Any]], Callable[..., Any]]


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
    compile: Callable[[Callable[[GradientTransform], Callable], Any], Callable]


def make_train_mode(mode: str, devices: Sequence[jax.Device], fsdp: bool = False) -> Parallel:
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
                x.shape, x.dtype, sharding=NamedSharding(mesh, fsdp_spec(x.shape, mesh.size)) if fsdp else whole
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
            specs = jax.tree.map(lambda x: fsdp_spec(x.shape, mesh.size) if fsdp else P(), params)

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


def _gather(x: Array, spec: P) -> Array:
    return jax.lax.all_gather(x, AXIS, axis=spec.index(AXIS), tiled=True) if AXIS in spec else x


def _scatter(x: Array, spec: P) -> Array:
    """The shard that this device keeps of the mean over the devices."""
    if AXIS not in spec:
        return jax.lax.pmean(x, AXIS)
    return jax.lax.psum_scatter(x, AXIS, scatter_dimension=spec.index(AXIS), tiled=True) / jax.lax.axis_size(AXIS)
