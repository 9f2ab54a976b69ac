"""What a configuration costs on the device at hand, as ratios measured in one run.

python -m fmdp.bench --config=configs/<name>.py [--only=forward,step] [--batch=16] [--out=bench.json]

Sections: `ceilings` (what the device does at best: a large matrix product, a copy), `forward` (the network against its
own convolutions and matrix products run bare, one after another), `step` (the training step of every loss against a
forward pass, and against its bare products), `solve` (plug-and-play of N steps against N forward passes), `sweep` (K
lookaheads against K single ones), `input` (batches delivered against batches trained on), `compile` (the training step,
cold and from the persistent cache), `devices` (the training step on 1, 2, 4 and 8 of them, and the bytes that they
exchange; --devices=8 simulates them on a CPU), `memory` (of the training step, planned and not run: fixed and for each
example, and the batch that fits devices of 16, 32 and 80 GB).

Each time is the median of rounds in which everything compared is run in turn, so that noise of the machine falls on
both sides of a ratio. XLA plans memory for the backend it compiles for: figures taken on a CPU are a guide to an
accelerator, not a promise.
"""

import functools
import json
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax import Array
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from fmdp import costs, data, evaluate, hlo, losses, observation, operators, solvers, train
from fmdp import parallel as parallel_modes
from fmdp.errors import InputError
from fmdp.files import write_json
from fmdp.main import CONFIG, cli

ONLY = flags.DEFINE_list("only", [], "The sections to measure; all of them unless given.")
BATCH = flags.DEFINE_integer("batch", 0, "Images at a time; those of config.train.batch_size unless given.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each time is taken.")
DEVICES = flags.DEFINE_integer("devices", 0, "Devices to simulate on a CPU.")
OUT = flags.DEFINE_string("out", None, "A JSON file for what was measured, which is printed too.")

PLANNED = (4, 8)  # batches from whose memory that of one example is told
DEVICES_GB = (16, 32, 80)
USABLE = 0.9  # of a device's memory: the rest is the runtime's, and lost between buffers
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
SOLVER_STEPS = 10
LOOKAHEADS = 15


@dataclass(frozen=True)
class Subject:
    """A configuration with all that its program needs, random where that does not matter for speed.

    Attributes:
      shape: of an image.
      size: images at a time.
      rounds: how often each time is taken.
    """

    config: ConfigDict
    shape: tuple[int, ...]
    size: int
    rounds: int

    def init(self) -> train.TrainState:
        """The state at step 0, as a function that can be traced."""
        return train.init_state(self.config, self.shape, jax.random.key(0))

    @functools.cached_property
    def state(self) -> train.TrainState:
        """That state."""
        return jax.jit(self.init)()

    @functools.cached_property
    def images(self) -> Array:
        """Random images."""
        return jax.random.uniform(jax.random.key(1), (self.size, *self.shape), minval=-1.0)

    @property
    def field(self):
        """The average field at the random start."""
        return train.make_field(train.make_network(self.config), self.state.ema)

    @property
    def times(self) -> tuple[Array, Array]:
        """The times s and t of every image."""
        return jnp.full(self.size, 0.3), jnp.full(self.size, 0.8)

    @property
    def diagonal(self) -> int:
        """How many examples of a batch train the diagonal."""
        return data.diagonal_count(self.size, self.config.loss.diagonal_share, 1)

    def batch(self, diagonal: int | None = None) -> dict[str, dict[str, Array]]:
        """The images as a training batch, of which so many train the diagonal."""
        count = self.diagonal if diagonal is None else diagonal
        rows = jnp.arange(self.size, dtype=jnp.int32)
        return {
            "diagonal": {"image": self.images[:count], "row": rows[:count]},
            "off_diagonal": {"image": self.images[count:], "row": rows[count:]},
        }


def image_shape(config: ConfigDict) -> tuple[int, ...]:
    """[H, W, C] of the images of a configuration, which are read only where it does not say it.

    Raises:
      InputError: they cannot be read.
    """
    if config.data.size:
        return (config.data.size, config.data.size, config.data.channels)
    return data.load(config.data).train.shape[1:]


def seconds(rounds: int, **runs: Callable[[], Any]) -> dict[str, float]:
    """The median time of each run, all of them taken in turn, `rounds` times after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


def ceilings(subject: Subject) -> dict[str, Any]:
    """What the device does at best: FLOP/s of a matrix product in the network's type, bytes/s of a copy."""
    size = 8192 if jax.default_backend() in ("gpu", "tpu") else 2048
    a = jnp.ones((size, size), subject.config.network.get("dtype") or jnp.float32)
    b = jnp.ones((size * 4, size), jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    found = seconds(subject.rounds, product=lambda: product(a, a), copy=lambda: copy(b))
    return {"flops_per_second": 2 * size**3 / found["product"], "bytes_per_second": 2 * b.nbytes / found["copy"]}


def forward(subject: Subject) -> dict[str, Any]:
    """The network against its own products run bare, and against the device's matrix products."""
    field, x, times = subject.field, subject.images, subject.times
    equations = costs.products(field, x, *times)
    bare, operands = costs.chain(equations, jax.random.key(0))
    run = jax.jit(field.func).lower(*field.args, x, *times).compile()
    bare = jax.jit(bare).lower(operands).compile()
    peak = ceilings(subject)["flops_per_second"]
    found = seconds(subject.rounds, forward=lambda: run(*field.args, x, *times), bare=lambda: bare(operands))
    return {
        "seconds": found["forward"],
        "products": len(equations),
        "over_bare_products": found["forward"] / found["bare"],
        "gflop": costs.flops(run) / 1e9,
        "utilisation": costs.flops(bare) / found["forward"] / peak,
    }


def step(subject: Subject) -> dict[str, Any]:
    """The training step of every off-diagonal loss against one forward pass, and against its bare products."""
    field, x, times, batch, key = subject.field, subject.images, subject.times, subject.batch(), jax.random.key(0)
    once = jax.jit(field.func)
    runs = {"forward": lambda: once(*field.args, x, *times)}
    for name in losses.OFF_DIAGONAL:
        config = subject.config.copy_and_resolve_references()
        config.loss.off_diagonal = name
        trained = train.make_train_step(config)
        bare, operands = costs.chain(costs.products(trained, subject.state, batch, key), key)
        runs[name] = partial(jax.jit(trained), subject.state, batch, key)
        runs[f"{name} bare"] = partial(jax.jit(bare), operands)
    found = seconds(subject.rounds, **runs)
    return {
        name: {
            "seconds": found[name],
            "over_forward": found[name] / found["forward"],
            "over_bare_products": found[name] / found[f"{name} bare"],
            "examples_per_second": subject.size / found[name],
        }
        for name in losses.OFF_DIAGONAL
    }


def solve(subject: Subject) -> dict[str, Any]:
    """Plug-and-play of SOLVER_STEPS on a batch against as many forward passes."""
    field, x, times = subject.field, subject.images, subject.times
    operator = operators.make("random_inpainting", x.shape[1:], jax.random.key(1), ratio=0.5)
    observed = jax.vmap(lambda x, key: observation.observe(operator, observation.Gaussian(sigma=0.05), x, key))(
        x, jax.random.split(jax.random.key(2), len(x))
    )
    restore = solvers.make("pnp", steps=SOLVER_STEPS)
    run = jax.jit(jax.vmap(lambda *given: restore(field, *given)))
    once, keys = jax.jit(field.func), jax.random.split(jax.random.key(3), len(x))
    found = seconds(subject.rounds, solve=lambda: run(observed, keys), forward=lambda: once(*field.args, x, *times))
    return {"steps": SOLVER_STEPS, "over_forwards": found["solve"] / found["forward"] / SOLVER_STEPS}


def sweep(subject: Subject) -> dict[str, Any]:
    """LOOKAHEADS lookaheads in one call against as many calls with one."""
    field, x, s = subject.field, subject.images, jnp.float32(0.5)
    many, one = jnp.linspace(0, 1, LOOKAHEADS), jnp.array([0.5])
    traces = []

    @jax.jit
    def walk(x, many):
        traces.append(many.shape)
        return evaluate.walk(field, x, s, many)

    found = seconds(subject.rounds, sweep=lambda: walk(x, many), single=lambda: walk(x, one))
    return {
        "lookaheads": LOOKAHEADS,
        "over_single_ones": found["sweep"] / found["single"] / LOOKAHEADS,
        "compiled": traces.count(many.shape),
    }


def input_pipeline(subject: Subject) -> dict[str, Any]:
    """How many batches are delivered in the time in which one is trained on."""
    config = subject.config
    try:
        images = data.load(config.data).train
    except InputError as error:
        return {"not_measured": str(error)}
    iterator = data.batches(
        images, subject.size, subject.diagonal, 0, flip=config.data.flip, workers=config.data.workers
    )
    place = parallel_modes.make("jit", jax.devices()[:1]).place_batch
    run = jax.jit(train.make_train_step(config))
    batch, key = subject.batch(), jax.random.key(0)
    found = seconds(subject.rounds, step=lambda: run(subject.state, batch, key))
    count = max(subject.rounds, 50)
    place(next(iterator))
    began = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(place(next(iterator)))
    each = (time.perf_counter() - began) / count
    iterator.close()
    return {"seconds_per_batch": each, "batches_in_a_step": found["step"] / each}


def compiling(subject: Subject) -> dict[str, Any]:
    """Seconds until the training step is compiled, without a persistent cache and from a warm one."""
    lowered = partial(jax.jit(train.make_train_step(subject.config)).lower, subject.state, subject.batch())

    def timed():
        jax.clear_caches()
        compilation_cache.reset_cache()
        began = time.perf_counter()
        lowered(jax.random.key(0)).compile()
        return time.perf_counter() - began

    before = {name: getattr(jax.config, name) for name in CACHE}
    with tempfile.TemporaryDirectory() as folder:
        for name, value in zip(CACHE, (folder, 0.0), strict=True):
            jax.config.update(name, value)
        cold, warm = timed(), timed()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    return {"cold_seconds": cold, "warm_seconds": warm}


def memory(subject: Subject) -> dict[str, Any]:
    """Bytes of the training step on one device: fixed, for each example, and the batch that fits devices of GB.

    The fixed part is parameters, their average, the optimizer's and the gradients. Compiled twice, at batches of
    PLANNED; nothing is run.
    """
    began = time.monotonic()
    small, large = (_planned(replace(subject, size=size)) for size in PLANNED)
    example = (large - small) / (PLANNED[1] - PLANNED[0])
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(subject.init)))
    fixed = max(small - PLANNED[0] * example, held)  # the state at least: memory is not quite linear in the batch
    fits = {f"{gb}GB": max(int((USABLE * gb * 1e9 - fixed) / example), 0) for gb in DEVICES_GB}
    return {
        "image_shape": subject.shape,
        "planned_bytes": dict(zip(PLANNED, (small, large), strict=True)),
        "fixed_bytes": round(fixed),
        "bytes_per_example": round(example),
        "batch_per_device": fits,
        "compile_seconds": (time.monotonic() - began) / 2,
    }


def _planned(subject: Subject) -> int:
    state, batch, key = jax.eval_shape(lambda: (subject.init(), subject.batch(), jax.random.key(0)))
    run = jax.jit(train.make_train_step(subject.config), donate_argnums=0)
    return costs.planned_bytes(run.lower(state, batch, key).compile())


def scaling(subject: Subject) -> dict[str, Any]:
    """The training step on 1, 2, 4, 8 devices: examples/s on each, and bytes exchanged a step against one gradient.

    Devices that --devices simulates share the cores of one CPU: there only the bytes mean anything.
    """
    found, parameters = {}, sum(x.nbytes for x in jax.tree.leaves(subject.state.params))
    for count in (n for n in (1, 2, 4, 8) if n <= jax.device_count() and subject.size % n == 0):
        parallel = parallel_modes.make("jit", jax.devices()[:count])
        state = parallel.place_state(jax.tree.map(jnp.copy, subject.state))
        compiled = parallel.compile(partial(train.make_train_step, subject.config), state)
        diagonal = data.diagonal_count(subject.size, subject.config.loss.diagonal_share, count)
        batch = parallel.place_batch(jax.device_get(subject.batch(diagonal)))
        key = jax.random.key(0)
        program = compiled.lower(state, batch, key).compile()  # type: ignore[attr-defined]
        exchanged = hlo.collective_bytes(program.as_text())
        states = [state]

        def step(states=states, compiled=compiled, batch=batch, key=key):
            states[0], metrics = compiled(states[0], batch, key)
            return metrics

        taken = seconds(subject.rounds, step=step)["step"]
        found[str(count)] = {
            "examples_per_second_per_device": subject.size / taken / count,
            "collective_bytes": exchanged,
            "over_one_gradient": sum(exchanged.values()) / parameters,
        }
    return found


SECTIONS: Mapping[str, Callable[[Subject], dict[str, Any]]] = {
    "ceilings": ceilings,
    "forward": forward,
    "step": step,
    "solve": solve,
    "sweep": sweep,
    "input": input_pipeline,
    "compile": compiling,
    "devices": scaling,
    "memory": memory,
}
"""What can be measured, by name."""


def measure(config: ConfigDict, only: list[str], batch: int, rounds: int) -> dict[str, Any]:
    """The measurements of the named sections, of all of them where none is named.

    Raises:
      InputError: a section that is not known, or a configuration that cannot be measured.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise InputError(f"--only={unknown[0]}: must be among {', '.join(SECTIONS)}")
    subject = Subject(config, image_shape(config), batch or config.train.batch_size, rounds)
    return {name: SECTIONS[name](subject) for name in only or SECTIONS}


def main(_) -> None:
    """Measure what the flags ask for."""
    if CONFIG.value is None:
        raise InputError("--config is missing: name a file in configs/, such as --config=configs/celeba.py")
    if DEVICES.value:
        jax.config.update("jax_num_cpu_devices", DEVICES.value)
    measured = {
        "config": CONFIG.value.name,
        "network": CONFIG.value.network.to_dict(),
        "batch": BATCH.value or CONFIG.value.train.batch_size,
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
    } | measure(CONFIG.value, ONLY.value, BATCH.value, ROUNDS.value)
    print(json.dumps(measured, indent=2))
    if OUT.value:
        write_json(pathlib.Path(OUT.value), measured)


if __name__ == "__main__":
    cli(main)
