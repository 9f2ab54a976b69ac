"""The configuration of a run: every key with its default, and what is refused before anything starts."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import ml_collections
from ml_collections import ConfigDict

from fmdp import networks
from fmdp.config.tasks import PROTOCOLS
from fmdp.data.decoding import MAX_PIXELS
from fmdp.data.pipeline import diagonal_count
from fmdp.errors import InputError
from fmdp.flow.losses import OFF_DIAGONAL, WEIGHTING
from fmdp.metrics import weights
from fmdp.operators import OPERATORS
from fmdp.solvers import SOLVERS
from fmdp.solvers.pnp import KNOBS

WHOLE, WIDE, LARGEST = 2**31, 2**63, 1e30  # above all whole numbers; the seed; other numbers
MOST_DEVICES = 64  # that a CPU is divided into


def default_config() -> ConfigDict:
    """All keys of a run with their defaults; the files in configs/ name their own values on top of it."""
    return ConfigDict(
        dict(
            name="",
            seed=0,
            data=dict(
                source="",  # digits, one of data.sources.FILES, one of data.TARGETS, or empty to go by the path
                path="",  # of the files of real images
                origin="",  # where to get them, told where the path does not exist
                dataset="",  # of tensorflow-datasets
                size=0,  # pixels a side that pictures are cropped and resized to; images in arrays must have it, or 0
                channels=3,  # of pictures: 3 in colour, 1 in gray
                flip=False,  # left and right, every other time that an image is trained on
                test_share=0.2,  # of a source of real images without a split of its own
                test_images=2000,  # at most so many of the held-out images are measured on; 0: all
                strict=False,  # decode every picture first and refuse unusable ones, instead of leaving them out
                max_pixels=50_000_000,  # of a picture in its file
                memory_gb=2.0,  # pictures that fit in it are decoded once and kept
                workers=0,  # processes that decode pictures; 0: threads of this one
                samples=50_000,  # to train on, of a source that is a known distribution
                test_samples=4_000,
                spectrum="power_law",  # of the Gaussian: isotropic or power_law
                components=10,  # of the mixture fitted to the digits
            ),
            network=dict(name="mlp"),
            loss=dict(
                off_diagonal="lagrangian",  # losses.OFF_DIAGONAL
                diagonal_share=0.75,  # of the batch
                weighting="none",  # losses.WEIGHTING
                weight_bound=4.0,  # of the learned log-variance, either side of zero
                weight_learning_rate=0.1,  # of the learned log-variance, as a share of the learning rate
            ),
            optimizer=dict(
                learning_rate=1e-3,
                warmup_steps=100,
                decay=True,  # cosine, to zero at the last step
                b1=0.9,
                b2=0.99,
                weight_decay=0.0,
                clip_norm=1.0,
            ),
            ema=dict(half_life=200_000.0),  # in images
            train=dict(
                steps=1000,
                batch_size=256,
                log_every=50,
                checkpoint_every=1000,
                keep=2,  # checkpoints, the newest ones
                keep_every=0,  # and those whose step it divides, for good; 0: none
                skip_limit=10,  # updates that are not finite, in a row, before the last checkpoint is gone back to
                accumulate=1,  # parts of a batch, taken one after another for want of memory; the numbers stay
            ),
            parallel=dict(
                mode="jit",  # parallel.MODES
                fsdp=False,  # shard the parameters over the devices, too, where a model does not fit on one
                devices=0,  # that the run must find; 0: as many as there are
                cpu_devices=0,  # that the cores are divided into; 0: one each, as far as they fit a batch
            ),
            evaluate=dict(
                noise_levels=(0.3, 0.5, 0.7),  # alpha = 1 - s
                points=15,  # settings of each knob, both ends included
                batch_size=360,
                draws=4,  # of the noise of every image
                bootstrap=200,  # resamplings behind the interval of the floors
                figure_images=3,
                rival_images=360,  # restored by the other knobs too, which cost many evaluations; 0 leaves them out
                rival_steps=32,  # of their reverse diffusion
                inception="",  # KID, FID, precision and recall; "auto": where the weights are found; or their path
                lpips="",  # the same
                small_fid=False,  # FID of fewer than 2,048 images, too
            ),
            inverse=dict(
                protocol="",  # one of protocols.PROTOCOLS: its tasks come before those named here
                tasks={},  # by name: operator, sigma (or peak, laplace), the operator's parameters, perhaps steps
                solvers=tuple(SOLVERS),
                images=200,  # restored, the first of the held-out ones
                tuning_images=64,  # of the training ones
                seeds=3,  # of masks, kernels, noise and solvers
                batch_size=200,
                steps=(10, 20, 100),  # of plug-and-play; the most is the other solvers' budget, too
                knob="relative",  # relative, additive (as published) or fixed: how a lookahead is read
                lookaheads=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
            ),
        )
    )


def validate(config: ConfigDict, devices: int) -> None:
    """Refuse a configuration that cannot run on so many devices.

    Raises:
      InputError: naming the key, its value and what is possible.
    """
    check(config)
    require, train, share = partial(_require, config), config.train, config.loss.diagonal_share
    require(
        config.parallel.devices in (0, devices),
        "parallel.devices",
        f"this run found {devices}; 0 takes any number, and config.parallel.cpu_devices makes some of a CPU",
    )
    parts = f"{train.accumulate} parts (config.train.accumulate) on each of " if train.accumulate > 1 else ""
    require(
        train.batch_size % (devices * train.accumulate) == 0,
        "train.batch_size",
        f"must be divisible by the {parts}{devices} devices of this run",
    )
    diagonal = diagonal_count(train.batch_size, share, devices * train.accumulate)
    require(
        share == 1 or 0 < diagonal < train.batch_size,
        "loss.diagonal_share",
        f"leaves a part of {train.batch_size} examples on {parts}{devices} devices empty: take a larger batch, or 1.0",
    )


def check(config: ConfigDict) -> None:
    """Refuse a configuration that could run on no devices.

    Raises:
      InputError: as `validate`.
    """
    require = partial(_require, config)
    for key, value, usual in _leaves(config, default_config()):
        listed = isinstance(usual, list | tuple)
        require(isinstance(value, list | tuple) == listed, key, "must be a list" if listed else "must be no list")
        for x in value if listed else [value]:
            fault = _fault(x, usual[0] if listed else usual, WIDE if key == "seed" else WHOLE)
            require(not fault, key, fault)
    require("/" not in config.name and config.name not in (".", ".."), "name", "is a file name: must hold no /")
    require(config.seed >= 0, "seed", "must be 0 or more")
    options = dict(config.network)
    networks.make(str(options.pop("name", "")), options)
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
    for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep", "skip_limit", "accumulate"):
        require(train[key] >= 1, f"train.{key}", "must be 1 or more")
    require(
        train.keep_every >= 0 and train.keep_every % train.checkpoint_every == 0,
        "train.keep_every",
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
    require(0 <= devices <= MOST_DEVICES, "parallel.cpu_devices", f"must be from 0 to {MOST_DEVICES}")
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
    require(evaluate.rival_images >= 0, "evaluate.rival_images", "must be 0 or more")
    for key in weights.NETWORKS:
        weights.check(key, evaluate[key])
    for key in ("batch_size", "draws", "bootstrap", "figure_images", "rival_steps"):
        require(evaluate[key] >= 1, f"evaluate.{key}", "must be 1 or more")
    inverse = config.inverse
    require(
        inverse.protocol in ("", *PROTOCOLS), "inverse.protocol", f"must be one of {', '.join(PROTOCOLS)}, or empty"
    )
    for name, task in inverse.tasks.items():
        known = isinstance(task, ConfigDict) and task.get("operator", None) in list(OPERATORS)
        require(known, "inverse.tasks", f"the operator of {name!r} must be one of {', '.join(OPERATORS)}")
        steps = task.get("steps", 1)
        whole = isinstance(steps, int) and 1 <= steps < WHOLE
        require(whole, "inverse.tasks", f"the steps of {name!r} must be a whole number from 1 on")
        for key, value in task.items():
            fault = "" if isinstance(value, str | list | tuple) else _fault(value, 0.0, WHOLE)
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


def _fault(value: Any, usual: Any, most: int) -> str:
    """What keeps a value from being of the kind that is usual, if anything."""
    if isinstance(usual, bool):
        return "" if isinstance(value, bool) else "must be True or False"
    if isinstance(usual, str):
        return "" if isinstance(value, str) else "must be text"
    if isinstance(value, bool) or not isinstance(value, int if isinstance(usual, int) else int | float):
        return "must be a whole number" if isinstance(usual, int) else "must be a number"
    bound = most if isinstance(usual, int) else LARGEST
    return "" if abs(value) < bound else f"must be a number below {bound:.3g}"


def plain(config: ConfigDict) -> dict:
    """The configuration as nested dicts, lists, strings and numbers, ready for JSON."""
    return {
        key: plain(value)
        if isinstance(value, ml_collections.ConfigDict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in config.items()
    }
