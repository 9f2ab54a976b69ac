"""What is measured: a configuration with everything that its programs need; and how times are taken."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp import data, operators
from fmdp.flow.diagonal_rows import Rows
from fmdp.operators.noise import GaussianNoise, Observation, observe
from fmdp.parallel import data_parallel
from fmdp.training.hyperparameters import Hyperparameters, hyperparameters
from fmdp.training.state import TrainState, first_state, init_params, init_state, make_field, make_network
from fmdp.training.step import make_train_step, step_form


class Compiled(NamedTuple):
    """A training step with its inputs; the first step donates the state."""

    step: Callable[..., Any]
    state: TrainState
    batch: Rows
    numbers: Hyperparameters


@dataclass(frozen=True)
class Workload:
    """A configuration with everything that its programs need; images and parameters are random.

    Attributes:
      shape: (H, W, C) of an image.
      size: images at a time.
      rounds: timings behind each median.
      compiles: whether the section `program` also compiles what it lowers.
      dtype: of the images of a training batch, float32 or uint8.
    """

    config: ConfigDict
    shape: tuple[int, ...]
    size: int
    rounds: int
    compiles: bool = True
    dtype: Any = np.float32

    def init(self) -> TrainState:
        """The state at step 0, as a function that can be traced."""
        return init_state(self.config, self.shape, jax.random.key(0))

    @functools.cached_property
    def state(self) -> TrainState:
        """The state at step 0."""
        params = init_params(self.config, self.shape, jax.random.key(0))
        return jax.jit(functools.partial(first_state, self.config))(params)

    @functools.cached_property
    def images(self) -> Array:
        """Random images."""
        return jax.random.uniform(jax.random.key(1), (self.size, *self.shape), minval=-1.0)

    @property
    def field(self):
        """The average field at the random start."""
        return make_field(make_network(self.config), self.state.ema)

    @property
    def times(self) -> tuple[Array, Array]:
        """The times s and t of every image."""
        return jnp.full(self.size, 0.3), jnp.full(self.size, 0.8)

    def batch(self) -> Rows:
        """Random images as a training batch."""
        images = self.images
        if self.dtype == np.uint8:
            images = jax.random.bits(jax.random.key(1), images.shape, np.uint8)
        return {"image": images, "row": jnp.arange(self.size, dtype=jnp.int32)}

    def measurements(self, images: Array) -> tuple[Observation, Array]:
        """What plug-and-play is given for images [n, H, W, C]: half of the pixels of each, with noise, and its key."""
        operator = operators.make("random_inpainting", self.shape, jax.random.key(1), ratio=0.5)
        noise_keys, keys = (jax.random.split(jax.random.key(seed), len(images)) for seed in (2, 3))
        noise = GaussianNoise(sigma=0.05)
        return jax.vmap(lambda x, key: observe(operator, noise, x, key))(images, noise_keys), keys

    def compile(self, devices: Sequence[jax.Device]) -> Compiled:
        """The training step over some devices, with its inputs placed there."""
        mode = data_parallel.make_train_mode(self.config.parallel.mode, devices, self.config.parallel.fsdp)
        state = mode.place_state(jax.tree.map(jnp.copy, step_form(self.config, self.state)))
        step = mode.compile(partial(make_train_step, self.config), state)
        batch, numbers = mode.place_batch(jax.device_get(self.batch())), mode.place_state(hyperparameters(self.config))
        return Compiled(step, state, batch, numbers)

    def run(self, devices: Sequence[jax.Device], fresh: Callable[[], Any] | None = None) -> Callable[[], Any]:
        """A function that takes one more training step over some devices, on the same batch or on fresh ones."""
        step, *states, batch, numbers = self.compile(devices)
        key = jax.random.key(0)

        def once():
            states[0], metrics = step(states[0], fresh() if fresh else batch, key, numbers)
            return metrics

        return once


def image_form(config: ConfigDict) -> tuple[tuple[int, ...], Any]:
    """[H, W, C] and dtype of the training images of a configuration.

    They are read only where it does not say their size. Where it does, they are pictures, which are bytes.

    Raises:
      InputError: they cannot be read.
    """
    if config.data.size:
        return (config.data.size, config.data.size, config.data.channels), np.uint8
    images = data.load_split(config.data).train
    return images.shape[1:], data.read_stored(images, slice(0)).dtype


def median_seconds(rounds: int, **runs: Callable[[], Any]) -> dict[str, float]:
    """The median time of each run, as `timings` takes it."""
    return {name: statistics.median(taken) for name, taken in timings(rounds, **runs).items()}


def timings(rounds: int, **runs: Callable[[], Any]) -> dict[str, list[float]]:
    """The seconds of each run, all of them taken in turn, `rounds` times after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if number:
                times[name].append(time.perf_counter() - began)
    return times
