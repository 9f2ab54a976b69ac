"""How a training step runs on several devices and processes: `jit` or `pmap`, with the numbers of one device.

In both modes every device takes the gradient on its rows of the batch, and the mean of these gradients is exchanged
once a step, before the update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fmdp.parallel.mesh import AXIS, fsdp_spec, make_mesh

MODES = ("jit", "pmap")

GradientTransform = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Turns a gradient on one device's rows into the mean over all devices.

It is a function (params, batch, key, fixed) -> (values, gradient), which is not the gradient in `fixed`, a pytree.
"""


@runtime_checkable
class TrainMode(Protocol):
    """Where state and batches lie, and how a step is compiled.

    A state has two forms: arrays over all devices of the run, which checkpoints and measurements see, and the form that
    the compiled step takes and returns. They differ only with several processes in `pmap` mode.
    """

    def layout(self, shapes: Any) -> Any:
        """The shapes of a state with their shardings over all devices."""

    def place_state(self, state: Any) -> Any:
        """The step's form of a state that lies over all devices, or in this process only."""

    def collect(self, state: Any) -> Any:
        """The arrays over all devices of a state in the step's form."""

    def place_batch(self, batch: Any) -> Any:
        """The contiguous rows of a batch that this process holds, on its devices; does not wait for the transfer."""

    def compile(self, make_step: Callable[[GradientTransform], Callable], state: Any) -> Callable:
        """The compiled step (state, batch, key, numbers) -> (state, metrics) of such states; it donates its state.

        Args:
          make_step: builds the step from the transform that takes a gradient over the devices.
          state: in the step's form.
        """


def make_train_mode(mode: str, devices: Sequence[jax.Device], fsdp: bool = False) -> TrainMode:
    """The given mode, one of MODES, over the given devices.

    Args:
      fsdp: shard the large parameters over the devices; in `jit` mode only.

    Raises:
      InputError: the processes have different numbers of devices.
    """
    mesh = make_mesh(tuple(devices))
    return PmapMode(mesh) if mode == "pmap" else JitMode(mesh, fsdp)


@dataclass(frozen=True)
class JitMode:
    """One program over the global batch and state, sharded along a mesh.

    With `fsdp` the large parameters, their averages and the optimizer's state are sharded over the devices. A step
    gathers the parameters and scatters the gradient, so only these two are ever complete on one device.
    """

    mesh: Mesh
    fsdp: bool = False

    def layout(self, shapes: Any) -> Any:
        """As `TrainMode.layout`."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, self._spec(x))), shapes
        )

    def place_state(self, state: Any) -> Any:
        """As `TrainMode.place_state`."""
        return jax.device_put(state, jax.tree.map(lambda x: x.sharding, self.layout(state)))

    def collect(self, state: Any) -> Any:
        """As `TrainMode.collect`."""
        return state

    def place_batch(self, batch: Any) -> Any:
        """As `TrainMode.place_batch`."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._rows, x), batch)

    def compile(self, make_step: Callable[[GradientTransform], Callable], state: Any) -> Callable:
        """As `TrainMode.compile`."""
        shardings, everywhere = jax.tree.map(lambda x: x.sharding, state), NamedSharding(self.mesh, P())
        return jax.jit(
            make_step(self._over_devices),
            in_shardings=(shardings, self._rows, everywhere, everywhere),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
        )

    @cached_property
    def _rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, P(AXIS))

    def _spec(self, x: Any) -> P:
        return fsdp_spec(x.shape, self.mesh.size) if self.fsdp else P()

    def _over_devices(self, gradient: Callable[..., Any]) -> Callable[..., Any]:
        def of_all(params, batch, key, fixed):
            specs, fixed_specs = (jax.tree.map(self._spec, x) for x in (params, fixed))

            def of_one(params, batch, key, fixed):
                params, fixed = jax.tree.map(_gather, (params, fixed), (specs, fixed_specs))
                values, grads = gradient(params, batch, key, fixed)
                return jax.lax.pmean(values, AXIS), jax.tree.map(_scatter, grads, specs)

            inputs, outputs = (specs, P(AXIS), P(), fixed_specs), (P(), specs)
            run = jax.shard_map(of_one, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
            return run(params, batch, key, fixed)

        return of_all


@dataclass(frozen=True)
class PmapMode:
    """One program per device over its rows of the batch, with the complete state on each."""

    mesh: Mesh

    def layout(self, shapes: Any) -> Any:
        """As `TrainMode.layout`."""
        complete = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=complete), shapes)

    def place_state(self, state: Any) -> Any:
        """As `TrainMode.place_state`."""

        def place(x):
            x = x.addressable_data(0) if isinstance(x, Array) and not x.is_fully_addressable else x
            return jax.device_put(x, NamedSharding(self._local, P()))

        return jax.tree.map(place, state)

    def collect(self, state: Any) -> Any:
        """As `TrainMode.collect`."""
        if self._local.size == self.mesh.size:
            return state
        return multihost_utils.host_local_array_to_global_array(state, self.mesh, P())

    def place_batch(self, batch: Any) -> Any:
        """As `TrainMode.place_batch`; the rows of each device get an axis of their own."""
        devices = self._local.size
        rows = jax.tree.map(lambda x: np.reshape(x, (devices, len(x) // devices, *x.shape[1:])), batch)
        return jax.device_put(rows, NamedSharding(self._local, P(AXIS)))

    def compile(self, make_step: Callable[[GradientTransform], Callable], state: Any) -> Callable:
        """As `TrainMode.compile`."""
        return jax.pmap(
            make_step(self._over_devices),
            AXIS,
            in_axes=(None, 0, None, None),
            out_axes=None,
            devices=self.mesh.devices.tolist(),
            donate_argnums=0,
        )

    @cached_property
    def _local(self) -> Mesh:
        devices = (device for device in self.mesh.devices.flat if device.process_index == jax.process_index())
        return make_mesh(tuple(devices))

    @staticmethod
    def _over_devices(gradient: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *inputs: jax.lax.pmean(gradient(*inputs), AXIS)


def _gather(x: Array, spec: P) -> Array:
    return jax.lax.all_gather(x, AXIS, axis=spec.index(AXIS), tiled=True) if AXIS in spec else x


def _scatter(x: Array, spec: P) -> Array:
    """The shard that this device keeps of the mean over the devices."""
    if AXIS not in spec:
        return jax.lax.pmean(x, AXIS)
    return jax.lax.psum_scatter(x, AXIS, scatter_dimension=spec.index(AXIS), tiled=True) / jax.lax.axis_size(AXIS)
