"""The weights that config.train.start_from names, and the prior that --checkpoint names for a run."""

import pathlib
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from fmdp.data import Split
from fmdp.errors import InputError, translating
from fmdp.io.files import expand_path
from fmdp.io.weights import digest_arrays
from fmdp.pretrained.prior import Prior, load
from fmdp.training.checkpoint import has_checkpoint
from fmdp.training.start import Start, require_fit


def read_start(config: ConfigDict, image_shape: tuple[int, ...], workdir: pathlib.Path) -> Start | None:
    """What the run in a workdir starts from: None for random parameters, and for a run that has begun.

    Args:
      image_shape: of the training images.

    Raises:
      InputError: the weights cannot be read or do not fit, or are those of the workdir itself.
    """
    named = config.train.start_from
    if not named:
        return None
    with translating(lambda why: f"config.train.start_from={named}: {why}", InputError):
        path = expand_path(named)
        if path.resolve() == workdir.resolve():
            remedy = "name another --workdir to start anew from its weights, or leave it out to resume"
            raise InputError(f"this is the workdir of the run itself: {remedy}")
        if has_checkpoint(workdir):
            return None
        prior = load(named)
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.device_get(prior.params))
    about, arrays = prior.about, flax.traverse_util.flatten_dict(params, sep="/")
    trained = about.get("train")
    steps = about.get("steps", trained.get("steps") if isinstance(trained, dict) else None)
    record: dict[str, str | int] = {"source": named, "sha256": digest_arrays(arrays)}
    record |= {"name": about["name"]} if isinstance(about.get("name"), str) else {}
    record |= {"steps": steps} if type(steps) is int else {}
    start = Start(params=params, network=prior.network, image_shape=prior.image_shape, record=record)
    require_fit(start, config, image_shape)
    return start


def take_prior(
    config: ConfigDict, split: Split, checkpoint: str, workdir: pathlib.Path
) -> tuple[Prior, dict[str, Any]]:
    """A prior that is measured on the images of a configuration without being trained on them, and what is known of it.

    Returns:
      The prior, and the record of it as progress of a run.

    Raises:
      InputError: the prior cannot be read or does not take such images, there are fewer of them than to be measured, or
        the workdir is that of a run, whose results would be replaced.
    """
    if not checkpoint:
        raise InputError("--checkpoint is empty: name a prior, or leave it out to measure the network of the workdir")
    if has_checkpoint(workdir):
        remedy = "name another --workdir, or leave --checkpoint out to measure the network of this run"
        raise InputError(
            f"{workdir} holds a run, whose results those of --checkpoint={checkpoint} would replace: {remedy}"
        )
    prior = load(checkpoint)
    (*size, channels), (*their_size, their_channels) = split.test.shape[1:], prior.image_shape
    what, stride = f"--checkpoint={checkpoint}", prior.stride
    if channels != their_channels:
        remedy = "name a prior for such images, or other data"
        raise InputError(f"{what} takes images with C = {their_channels} channels, and here C = {channels}: {remedy}")
    if size != their_size and (stride is None or any(side % stride for side in size)):
        wanted = f"sides that are multiples of {stride}" if stride else f"{their_size[0]}x{their_size[1]} pixels"
        remedy = "set config.data.size where the data are pictures, or name a prior for such images"
        raise InputError(f"{what} takes images of {wanted}, and these have {size[0]}x{size[1]}: {remedy}")
    if (found := len(split.test)) < config.inverse.images:
        remedy = f"but only {found} are held out: raise config.data.test_share = {config.data.test_share}, or lower it"
        raise InputError(f"config.inverse.images = {config.inverse.images}, {remedy}")
    if (found := len(split.train)) < 2:
        remedy = f"give more, or lower config.data.test_share = {config.data.test_share}"
        raise InputError(f"{found} pictures are left as real ones to compare with, at least 2 are needed: {remedy}")
    record: dict[str, str | int] = {"source": checkpoint}
    record |= {"name": name} if isinstance(name := prior.about.get("name"), str) else {}
    return prior, {"started_from": record}
