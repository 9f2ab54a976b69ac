"""The weights that config.train.start_from names."""

import pathlib

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from fmdp.errors import InputError, translating
from fmdp.io.files import expand_path
from fmdp.io.weights import digest_arrays
from fmdp.pretrained.prior import load
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
