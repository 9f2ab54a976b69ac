"""The conditions that a configuration has to meet before anything starts."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from fmdp import networks
from fmdp.config.defaults import default_config
from fmdp.config.phases import phases, phases_fault
from fmdp.config.tasks import PROTOCOLS
from fmdp.errors import MAX_NUMBER, InputError, kind_fault
from fmdp.flow.diagonal_rows import diagonal_pattern
from fmdp.flow.losses import OFF_DIAGONAL, WEIGHTING
from fmdp.flow.times import QUANTILES
from fmdp.io.archives import MAX_PIXELS
from fmdp.io.levels import range_fault
from fmdp.metrics import weights
from fmdp.operators import OPERATORS
from fmdp.parallel.precision import PRECISIONS
from fmdp.solvers import SOLVERS
from fmdp.solvers.pnp import KNOBS, SCHEDULES

MAX_WHOLE, MAX_SEED = 2**31, 2**63  # above all whole numbers; above all seeds
MAX_CPU_DEVICES = 64
MAX_SIGMA = 150  # of 255, in the benchmark
CROPS = ("center", "random")
ONE, ZERO = "must be 1 or more", "must be 0 or more"


def one_of(names: Iterable[str]) -> str:
    """The remedy for a value that has to be one of these names."""
    return f"must be one of {', '.join(names)}"


def validate_for_devices(config: ConfigDict, devices: int) -> None:
    """Refuse a configuration that cannot run on this number of devices.

    Raises:
      InputError: naming the key, its value and what is possible.
    """
    validate(config)
    size, parts = config.train.batch_size, config.train.grad_accumulation_steps
    on = f"{parts} parts (config.train.grad_accumulation_steps) on each of {devices}" if parts > 1 else f"{devices}"
    patterns = [(share, *diagonal_pattern(max(size // (devices * parts), 1), share)) for _, share in phases(config)]
    relations = (
        (
            "parallel.devices",
            config.parallel.devices in (0, devices),
            f"this run found {devices}; 0 accepts any number, config.parallel.cpu_devices divides a CPU",
        ),
        ("train.batch_size", size % (devices * parts) == 0, f"must be divisible by the {on} devices of this run"),
        (
            "loss.phases" if config.loss.phases else "loss.diagonal_share",
            all(share == 1 or 0 < count < period for share, count, period in patterns),
            f"leaves a part of {size} examples on {on} devices empty: take a larger config.train.batch_size, or 1.0",
        ),
    )
    for key, holds, remedy in relations:
        _require(config, holds, key, remedy)


def divides_batch(config: ConfigDict, devices: int) -> bool:
    """Whether so many devices divide the batch evenly and train the same rows on the diagonal as one device."""
    size, parts = config.train.batch_size, config.train.grad_accumulation_steps
    if size % (devices * parts):
        return False
    whole, divided = (
        [diagonal_pattern(rows, share) for _, share in phases(config)]
        for rows in (size // parts, size // (devices * parts))
    )
    return whole == divided


def validate(config: ConfigDict) -> None:
    """Refuse a configuration that could run on no devices.

    Raises:
      InputError: naming the key, its value and what is possible.
    """
    require = partial(_require, config)
    for key, value, default in _leaves(config, default_config()):
        listed = isinstance(default, list | tuple)
        require(isinstance(value, list | tuple) == listed, key, "must be a list" if listed else "must not be a list")
        if key == "loss.phases":
            require(not (fault := phases_fault(value)), key, fault)
            continue
        kind = type(default) if not listed else type(default[0]) if default else float
        limit = MAX_SEED if key == "seed" else MAX_WHOLE
        for x in value if listed else [value]:
            fault = kind_fault(x, kind, limit if kind is int else MAX_NUMBER)
            require(not fault, key, f"must be {fault}")
    for keys, holds, remedy in VALUES:
        for key in keys.split():
            require(holds(_value(config, key)), key, remedy)
    for key, agrees, remedy in RELATIONS:
        require(agrees(config), key, remedy)
    options = dict(config.network)
    networks.make_backbone(str(options.pop("name", "")), options)
    for key in weights.NETWORKS:
        weights.check_weights_setting(key, config.evaluate[key])
    for name, task in config.inverse.tasks.items():
        require(not (fault := _task_fault(name, task)), "inverse.tasks", fault)


VALUES: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("train.steps train.batch_size train.log_every train.checkpoint_every train.max_to_keep", lambda x: x >= 1, ONE),
    ("train.max_consecutive_skips train.grad_accumulation_steps train.watch_images", lambda x: x >= 1, ONE),
    ("data.samples data.test_samples data.components", lambda x: x >= 1, ONE),
    ("evaluate.batch_size evaluate.noise_draws evaluate.bootstrap evaluate.figure_images", lambda x: x >= 1, ONE),
    ("evaluate.baseline_steps inverse.images inverse.seeds", lambda x: x >= 1, ONE),
    ("inverse.batch_size inverse.pnp_flow_draws benchmark.perceptual_every", lambda x: x >= 1, ONE),
    ("seed data.size data.test_images data.memory_gb data.workers", lambda x: x >= 0, ZERO),
    ("train.keep_period train.watch_every train.validation_images", lambda x: x >= 0, ZERO),
    ("evaluate.baseline_images loss.weight_learning_rate benchmark.max_pictures", lambda x: x >= 0, ZERO),
    ("benchmark.seed benchmark.tile benchmark.memory_gb inverse.tuning_images", lambda x: x >= 0, ZERO),
    ("optimizer.warmup_steps optimizer.weight_decay", lambda x: x >= 0, ZERO),
    (
        "loss.weight_bound loss.times_std optimizer.learning_rate optimizer.clip_norm",
        lambda x: x > 0,
        "must be positive",
    ),
    ("ema.half_life", lambda x: x > 0, "must be positive, in images"),
    ("ema.more_half_lives", lambda xs: all(x > 0 for x in xs), "must be positive, in images"),
    ("optimizer.b1 optimizer.b2", lambda x: 0 <= x < 1, "must be in [0, 1)"),
    ("loss.diagonal_share", lambda x: 0 < x <= 1, "must be in (0, 1]"),
    ("loss.off_diagonal", lambda x: x in OFF_DIAGONAL, one_of(OFF_DIAGONAL)),
    ("loss.times", lambda x: x in QUANTILES, one_of(QUANTILES)),
    ("loss.difference", lambda x: 0 <= x <= 1, "must be from 0 (exact derivatives) to 1"),
    ("loss.teacher_decay", lambda x: 0 <= x < 1, "must be in [0, 1); 0 is without a teacher of its own"),
    ("loss.power loss.huber loss.interval_steps", lambda x: x >= 0, ZERO),
    ("loss.weighting", lambda x: x in WEIGHTING, one_of(WEIGHTING)),
    ("precision", lambda x: x in PRECISIONS, one_of(PRECISIONS)),
    ("parallel.mode", lambda x: x in ("jit", "pmap"), "must be jit or pmap"),
    ("parallel.cpu_devices", lambda x: 0 <= x <= MAX_CPU_DEVICES, f"must be from 0 to {MAX_CPU_DEVICES}"),
    ("name", lambda x: "/" not in x and x not in (".", ".."), "is a file name: must not contain /"),
    ("data.range", lambda x: not x or not range_fault(tuple(x)), f"{range_fault(())}, or empty"),
    ("data.crop", lambda x: x in CROPS, one_of(CROPS)),
    ("data.min_scale", lambda x: 0 <= x <= 1, "must be from 0 (the smallest that fits) to 1"),
    ("data.test_share", lambda x: 0 < x < 1, "must be between 0 and 1"),
    ("data.channels", lambda x: x in (1, 3), "must be 1 (gray) or 3 (colour)"),
    ("data.max_pixels", lambda x: 0 < x <= MAX_PIXELS, f"must be from 1 to {MAX_PIXELS}"),
    ("evaluate.noise_levels", len, "must name at least one noise level"),
    ("evaluate.noise_levels", lambda xs: all(0 < x < 1 for x in xs), "must lie between 0 and 1"),
    ("evaluate.points", lambda x: x >= 3, "must be 3 or more, which includes both ends of the knob"),
    ("inverse.protocol", lambda x: x in ("", *PROTOCOLS), f"{one_of(PROTOCOLS)}, or empty"),
    ("inverse.solvers", lambda xs: set(xs) <= set(SOLVERS), f"must be among {', '.join(SOLVERS)}"),
    ("inverse.knob", lambda x: x in KNOBS, one_of(KNOBS)),
    ("inverse.schedule", lambda x: x in SCHEDULES, one_of(SCHEDULES)),
    ("inverse.steps", lambda xs: xs and min(xs) >= 1, "must be numbers of steps, each 1 or more"),
    ("inverse.lookaheads", lambda xs: xs and all(0 <= x <= 1 for x in xs), "must be lookaheads from 0 to 1"),
    (
        "benchmark.sigmas",
        lambda xs: xs and all(0 < x <= MAX_SIGMA for x in xs) and len({*xs}) == len(xs),
        f"must be noise levels, each once, above 0 and at most {MAX_SIGMA} (of 255)",
    ),
    (
        "benchmark.lookaheads",
        lambda xs: len(xs) > 1 and (xs[0], xs[-1]) == (0, 1) and all(a < b for a, b in itertools.pairwise(xs)),
        "must ascend from 0 (minimum error) to 1 (perfect perception)",
    ),
)
"""What single values have to satisfy: keys, condition, remedy."""

RELATIONS: tuple[tuple[str, Callable[[ConfigDict], Any], str], ...] = (
    (
        "train.keep_period",
        lambda c: c.train.keep_period % c.train.checkpoint_every == 0,
        "must be 0 or a multiple of config.train.checkpoint_every",
    ),
    (
        "ema.more_half_lives",
        lambda c: len({c.ema.half_life, *c.ema.more_half_lives}) == 1 + len(c.ema.more_half_lives),
        "must differ from each other and from config.ema.half_life",
    ),
    (
        "train.validation_images",
        lambda c: c.train.validation_images or not c.ema.more_half_lives,
        "must be 1 or more to choose among the averages of config.ema.more_half_lives",
    ),
    (
        "data.min_scale",
        lambda c: not c.data.min_scale or c.data.crop == "random",
        "needs config.data.crop=random: a crop of the middle is always as large as fits",
    ),
    ("parallel.fsdp", lambda c: not c.parallel.fsdp or c.parallel.mode == "jit", "needs config.parallel.mode=jit"),
)
"""What values have to satisfy together: the key to blame, condition, remedy."""


def _value(config: ConfigDict, key: str) -> Any:
    return functools.reduce(operator.getitem, key.split("."), config)


def _require(config: ConfigDict, condition: Any, key: str, remedy: str) -> None:
    if not condition:
        raise InputError(f"config.{key} = {' '.join(repr(_value(config, key)).split())}: {remedy}")


def _task_fault(name: str, task: Any) -> str:
    """What is wrong with a task of the solvers' comparison, if anything."""
    if not isinstance(task, ConfigDict) or task.get("operator", None) not in list(OPERATORS):
        return f"the operator of {name!r} must be one of {', '.join(OPERATORS)}"
    if kind_fault(task.get("steps", 1), int, MAX_WHOLE) or task.get("steps", 1) < 1:
        return f"the steps of {name!r} must be a whole number, 1 or more"
    faults = {key: "" if isinstance(x, str | list | tuple) else kind_fault(x, float) for key, x in task.items()}
    return next((f"{key} of {name!r} must be {fault}" for key, fault in faults.items() if fault), "")


def _leaves(config: ConfigDict, default: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value and default of every value but those of the network and the tasks, which have checks of their own."""
    for name in default:
        key = prefix + name
        if key in ("network", "inverse.tasks"):
            continue
        if name not in config or isinstance(config[name], ConfigDict) != isinstance(default[name], ConfigDict):
            begin = "begin with fmdp.config.defaults.default_config()"
            raise InputError(f"config.{key} is missing, or of another kind: {begin}")
        if isinstance(default[name], ConfigDict):
            yield from _leaves(config[name], default[name], f"{key}.")
        else:
            yield key, config[name], default[name]
