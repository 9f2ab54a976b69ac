"""Priors from the workdirs of version 0.1.0, which hold checkpoints but no weights file."""

import pathlib

import jax
from ml_collections import ConfigDict

from fmdp import data
from fmdp.config.defaults import as_plain_dict, default_config
from fmdp.config.renamed import rename_keys
from fmdp.errors import InputError, translating
from fmdp.io.archives import is_bomb
from fmdp.io.files import read_json
from fmdp.io.weights import check_image_shape
from fmdp.parallel import batching
from fmdp.pretrained.prior import Prior, PriorMetadata
from fmdp.training import loop
from fmdp.training.state import init_state, make_network


def prior_of_workdir(workdir: pathlib.Path) -> Prior:
    """The average of the parameters in the latest checkpoint of a run.

    Raises:
      InputError: the folder is not the workdir of a run, or holds no readable checkpoint.
    """
    path, config = workdir / "config.json", default_config()
    # ConfigDict and the networks may raise anything for values of other kinds.
    with translating(lambda why: f"{path} is damaged ({why}): it does not belong to a run", Exception):
        saved = read_json(path)
        rename_keys(saved)
        with config.unlocked():
            config.update(ConfigDict(saved))
        network = make_network(config)
        shape = _image_shape(config, workdir)
        state = jax.eval_shape(lambda: init_state(config, shape, jax.random.key(0)))
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    stored = sum(file.stat().st_size for file in (workdir / "checkpoints").rglob("*") if file.is_file())
    if stored and is_bomb(needed, stored):  # before memory is allocated
        raise InputError(f"{workdir} holds {stored} bytes of checkpoints for a state of {needed}: the run is damaged")
    state, progress = loop.restore_state(config, shape, workdir)
    about = PriorMetadata(name=config.name, config=as_plain_dict(config), train=progress)
    params = batching.single_device(batching.replicate(state.ema))
    return Prior(params=params, network=network, image_shape=shape, about=about)


def _image_shape(config: ConfigDict, workdir: pathlib.Path) -> tuple[int, int, int]:
    """The image shape that the run recorded; older runs recorded none, so their data is read."""
    path = workdir / "split.json"
    shape = read_json(path).get("image_shape") if path.exists() else None
    return check_image_shape(shape or data.load_split(config.data).train.shape[1:], path)
