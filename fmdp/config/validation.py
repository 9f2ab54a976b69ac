"""What is refused of a configuration before anything starts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from fmdp import networks
from fmdp.config.defaults import default_config
from fmdp.config.tasks import PROTOCOLS
from fmdp.data.decoding import MAX_PIXELS
from fmdp.errors import InputError
from fmdp.flow.diagonal_rows import diagonal_pattern
from fmdp.flow.losses import OFF_DIAGONAL, WEIGHTING
from fmdp.metrics import weights
from fmdp.operators import OPERATORS
from fmdp.solvers import SOLVERS
from fmdp.solvers.pnp import KNOBS

MAX_WHOLE, MAX_SEED, MAX_NUMBER = 2**31, 2**63, 1e30  # above all whole numbers; the seed; other numbers


MAX_CPU_DEVICES = 64  # that a CPU is divided into


def validate_for_devices(config: ConfigDict, devices: int) -> None:
    """Refuse a configuration that cannot run on so many devices.

    Raises:
      InputError: naming the key, its value and what is possible.
    """
    validate(config)
    require, train, share = partial(_require, config), config.train, config.loss.diagonal_share
    require(
        config.parallel.devices in (0, devices),
        "parallel.devices",
        f"this run found {devices}; 0 takes any number, and config.parallel.cpu_devices makes some of a CPU",
    )
    parts = (
        f"{train.grad_accumulation_steps} parts (config.train.grad_accumulation_steps) on each of "
        if train.grad_accumulation_steps > 1
        else ""
    )
    require(
        train.batch_size % (devices * train.grad_accumulation_steps) == 0,
        "train.batch_size",
        f"must be divisible by the {parts}{devices} devices of this run",
    )
    count, period = diagonal_pattern(train.batch_size // (devices * train.grad_accumulation_steps), share)
    require(
        share == 1 or 0 < count < period,
        "loss.diagonal_share",
        f"leaves a part of {train.batch_size} examples on {parts}{devices} devices empty: take a larger batch, or 1.0",
    )


def divides_batch(config: ConfigDict, devices: int) -> bool:
    """Whether so many devices divide the batch evenly and train the same rows on the diagonal as one device."""
    size, share, parts = config.train.batch_size, config.loss.diagonal_share, config.train.grad_accumulation_steps
    if size % (devices * parts):
        return False
    return diagonal_pattern(size // (devices * parts), share) == diagonal_pattern(size // parts, share)


def validate(config: ConfigDict) -> None:
    """Refuse a configuration that could run on no devices.

    Raises:
      InputError: as `validate`.
    """
    require = partial(_require, config)
    for key, value, usual in _leaves(config, default_config()):
        listed = isinstance(usual, list | tuple)
        require(isinstance(value, list | tuple) == listed, key, "must be a list" if listed else "must be no list")
        for x in value if listed else [value]:
            fault = _type_fault(x, usual[0] if listed else usual, MAX_SEED if key == "seed" else MAX_WHOLE)
            require(not fault, key, fault)
    require("/" not in config.name and config.name not in (".", ".."), "name", "is a file name: must hold no /")
    require(config.seed >= 0, "seed", "must be 0 or more")
    options = dict(config.network)
    networks.make_backbone(str(options.pop("name", "")), options)
    _check_training(config)
    _check_measuring(config)


def _require(config: ConfigDict, condition: Any, key: str, remedy: str) -> None:
    if not condition:
        value = config
        for part in key.split("."):
            value = value[part]
        raise InputError(f"config.{key} = {' '.join(repr(value).split())}: {remedy}")


def _check_training(config: ConfigDict) -> None:
    require, train, loss = partial(_require, config), config.train, config.loss
    for key in (
        "steps",
        "batch_size",
        "log_every",
        "checkpoint_every",
        "max_to_keep",
        "max_consecutive_skips",
        "grad_accumulation_steps",
    ):
        require(train[key] >= 1, f"train.{key}", "must be 1 or more")
    require(
        train.keep_period >= 0 and train.keep_period % train.checkpoint_every == 0,
        "train.keep_period",
        f"must be 0 or a multiple of config.train.checkpoint_every = {train.checkpoint_every}",
    )
    require(loss.off_diagonal in OFF_DIAGONAL, "loss.off_diagonal", f"must be one of {', '.join(OFF_DIAGONAL)}")
    require(loss.weighting in WEIGHTING, "loss.weighting", f"must be one of {', '.join(WEIGHTING)}")
    require(0 < loss.diagonal_share <= 1, "loss.diagonal_share", "must be in (0, 1]")
    require(loss.weight_bound > 0, "loss.weight_bound", "must be positive")
    require(loss.weight_learning_rate >= 0, "loss.weight_learning_rate", "must be 0 or more")
    for key in ("learning_rate", "clip_norm"):
        require(config.optimizer[key] > 0, f"optimizer.{key}", "must be positive")
    for key in ("warmup_steps", "weight_decay"):
        require(config.optimizer[key] >= 0, f"optimizer.{key}", "must be 0 or more")
    for key in ("b1", "b2"):
        require(0 <= config.optimizer[key] < 1, f"optimizer.{key}", "must be in [0, 1)")
    require(config.ema.half_life > 0, "ema.half_life", "must be positive, in images")
    require(config.parallel.mode in ("jit", "pmap"), "parallel.mode", "must be jit or pmap")
    devices = config.parallel.cpu_devices
    require(0 <= devices <= MAX_CPU_DEVICES, "parallel.cpu_devices", f"must be from 0 to {MAX_CPU_DEVICES}")
    require(
        not config.parallel.fsdp or config.parallel.mode == "jit", "parallel.fsdp", "needs config.parallel.mode=jit"
    )
    require(0 < config.data.test_share < 1, "data.test_share", "must be between 0 and 1")
    require(config.data.channels in (1, 3), "data.channels", "must be 1 (gray) or 3 (colour)")
    for key in ("samples", "test_samples", "components"):
        require(config.data[key] >= 1, f"data.{key}", "must be 1 or more")
    for key in ("size", "test_images", "memory_gb", "workers"):
        require(config.data[key] >= 0, f"data.{key}", "must be 0 or more")
    require(0 < config.data.max_pixels <= MAX_PIXELS, "data.max_pixels", f"must be from 1 to {MAX_PIXELS}")


def _check_measuring(config: ConfigDict) -> None:
    require, evaluate = partial(_require, config), config.evaluate
    require(len(evaluate.noise_levels) > 0, "evaluate.noise_levels", "must name at least one noise level")
    require(all(0 < a < 1 for a in evaluate.noise_levels), "evaluate.noise_levels", "must lie between 0 and 1")
    require(evaluate.points >= 3, "evaluate.points", "must be 3 or more, both ends of the knob included")
    require(evaluate.baseline_images >= 0, "evaluate.baseline_images", "must be 0 or more")
    for key in weights.NETWORKS:
        weights.check_weights_setting(key, evaluate[key])
    for key in ("batch_size", "noise_draws", "bootstrap", "figure_images", "baseline_steps"):
        require(evaluate[key] >= 1, f"evaluate.{key}", "must be 1 or more")
    inverse = config.inverse
    require(
        inverse.protocol in ("", *PROTOCOLS), "inverse.protocol", f"must be one of {', '.join(PROTOCOLS)}, or empty"
    )
    for name, task in inverse.tasks.items():
        known = isinstance(task, ConfigDict) and task.get("operator", None) in list(OPERATORS)
        require(known, "inverse.tasks", f"the operator of {name!r} must be one of {', '.join(OPERATORS)}")
        steps = task.get("steps", 1)
        whole = isinstance(steps, int) and 1 <= steps < MAX_WHOLE
        require(whole, "inverse.tasks", f"the steps of {name!r} must be a whole number from 1 on")
        for key, value in task.items():
            fault = "" if isinstance(value, str | list | tuple) else _type_fault(value, 0.0, MAX_WHOLE)
            require(not fault, "inverse.tasks", f"{key} of {name!r} {fault}")
    require(set(inverse.solvers) <= set(SOLVERS), "inverse.solvers", f"must be among {', '.join(SOLVERS)}")
    require(inverse.knob in KNOBS, "inverse.knob", f"must be one of {', '.join(KNOBS)}")
    for key in ("images", "tuning_images", "seeds", "batch_size"):
        require(inverse[key] >= 1, f"inverse.{key}", "must be 1 or more")
    require(inverse.steps and min(inverse.steps) >= 1, "inverse.steps", "must name numbers of steps from 1 on")
    require(
        inverse.lookaheads and all(0 <= x <= 1 for x in inverse.lookaheads),
        "inverse.lookaheads",
        "must name lookaheads from 0 to 1",
    )


def _leaves(config: ConfigDict, usual: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value and default of everything with a default, but what is left open: the network and the tasks."""
    for name in usual:
        key = prefix + name
        if key in ("network", "inverse.tasks"):
            continue
        if name not in config or isinstance(config[name], ConfigDict) != isinstance(usual[name], ConfigDict):
            raise InputError(
                f"config.{key} is missing, or of another kind: begin with fmdp.config.defaults.default_config()"
            )
        if isinstance(usual[name], ConfigDict):
            yield from _leaves(config[name], usual[name], f"{key}.")
        else:
            yield key, config[name], usual[name]


def _type_fault(value: Any, usual: Any, most: int) -> str:
    """What keeps a value from being of the kind that is usual, if anything."""
    if isinstance(usual, bool):
        return "" if isinstance(value, bool) else "must be True or False"
    if isinstance(usual, str):
        return "" if isinstance(value, str) else "must be text"
    if isinstance(value, bool) or not isinstance(value, int if isinstance(usual, int) else int | float):
        return "must be a whole number" if isinstance(usual, int) else "must be a number"
    bound = most if isinstance(usual, int) else MAX_NUMBER
    return "" if abs(value) < bound else f"must be a number below {bound:.3g}"
