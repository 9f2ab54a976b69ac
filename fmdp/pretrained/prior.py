"""Trained fields as files: a folder with the weights and what is needed to use them, read without running any of it."""

import os
import pathlib
import shutil
from dataclasses import dataclass, field
from typing import Any, cast

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from fmdp import data, networks
from fmdp.config.defaults import as_plain_dict, default_config
from fmdp.errors import InputError, reason
from fmdp.io.archives import is_bomb
from fmdp.io.files import expand_path, read_json
from fmdp.io.torch_files import read_state_dict
from fmdp.io.weights import MODEL, WEIGHTS, check_image_shape, read_weights, write_weights
from fmdp.parallel import batching
from fmdp.pretrained.pytorch_unet import unet_from_state_dict
from fmdp.training import loop
from fmdp.training.state import init_state, make_network
from fmdp.types import Time

SHIPPED_WEIGHTS = pathlib.Path(__file__).parent / "weights"


class PriorMetadata(dict):
    """What is known of a prior, as plain JSON; the same only as itself, so that compiled functions may go by it."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__  # type: ignore[assignment]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Prior:
    """A trained average field (x, s, t) -> v over images [..., H, W, C]; a pytree, so that it may pass through jit.

    >>> prior = load("fashion_mnist")
    >>> velocity = jax.jit(lambda prior, x: prior(x, 0.5, 1.0))
    >>> velocity(prior, jnp.zeros((2, 28, 28, 1))).shape
    (2, 28, 28, 1)

    Attributes:
      params: of the network, in float32.
      network: the backbone.
      image_shape: (H, W, C) of the images it was trained on.
      about: where it comes from, as told in model.json: data, licence, steps, scores.
    """

    params: Any
    network: nn.Module = field(metadata=dict(static=True))
    image_shape: tuple[int, int, int] = field(metadata=dict(static=True))
    about: PriorMetadata = field(metadata=dict(static=True))

    def __call__(self, x: Array, s: Time, t: Time) -> Array:
        """The mean velocity between the times s and t from x at s, of the shape of x."""
        return cast(Array, self.network.apply({"params": self.params}, x, s, t))


def load(path: str | os.PathLike) -> Prior:
    """A trained field with the shape of its images.

    >>> prior = load("fashion_mnist")
    >>> prior.image_shape, prior.about["licence"]
    ((28, 28, 1), 'Apache-2.0, of the data MIT')

    Args:
      path: the name of one that ships with fmdp (`shipped`), a folder that `save` wrote, the workdir of a run, or a
        released file of the two-time U-Net.

    Raises:
      InputError: there is none, it is damaged, or it is of a newer format.
    """
    folder = find_prior(path)
    if folder.is_file():
        return from_file(folder)
    if (folder / MODEL).is_file():
        return _read(folder)
    if (folder / "config.json").is_file():
        return from_workdir(folder)
    raise InputError(f"{folder} holds neither {MODEL} nor a run's config.json: name a checkpoint or a run's folder")


def find_prior(path: str | os.PathLike) -> pathlib.Path:
    """Where a checkpoint is: the path itself, or the folder of one that ships with fmdp, by name.

    Raises:
      InputError: there is none.
    """
    folder = expand_path(path)
    if not folder.exists() and (SHIPPED_WEIGHTS / str(path)).is_dir() and len(pathlib.PurePath(path).parts) == 1:
        return SHIPPED_WEIGHTS / str(path)
    if not folder.exists():
        beside = (found.parent for found in sorted(folder.parent.glob("*/config.json")))
        known = ", ".join([*shipped(), *(str(run) for run in beside)][:20])
        raise InputError(f"no checkpoint {str(path)!r}: name a folder of one, or one of {known}")
    return folder


def shipped() -> list[str]:
    """The names of the priors that ship with fmdp."""
    return sorted(path.parent.name for path in SHIPPED_WEIGHTS.glob(f"*/{MODEL}"))


def from_workdir(workdir: pathlib.Path) -> Prior:
    """The average of the parameters in a run's newest checkpoint.

    Raises:
      InputError: the workdir is none, or holds no checkpoint that can be read.
    """
    try:
        config = default_config()
        with config.unlocked():
            config.update(ConfigDict(read_json(workdir / "config.json")))
        network = make_network(config)
        shape = _image_shape(config, workdir)
        state = jax.eval_shape(lambda: init_state(config, shape, jax.random.key(0)))
    except InputError:
        raise
    except Exception as error:  # whatever ConfigDict raises of values of other kinds
        raise InputError(f"{workdir / 'config.json'} is damaged ({reason(error)}): it is no folder of a run") from error
    _check_room(state, workdir)
    state, progress = loop.restore_state(config, shape, workdir)
    about = PriorMetadata(name=config.name, config=as_plain_dict(config), train=progress)
    params = batching.single_device(batching.replicate(state.ema))
    return Prior(params=params, network=network, image_shape=shape, about=about)


def from_file(path: pathlib.Path) -> Prior:
    """The two-time U-Net in a released checkpoint (.pkl, .pt, .safetensors, .npz); nothing in the file is executed.

    Raises:
      InputError: it cannot be read, or its arrays are not those of such a network.
    """
    try:
        network, params = unet_from_state_dict(read_state_dict(path))
    except InputError as error:
        raise InputError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from error
    shape = (network.resolution, network.resolution, params["enc_0_conv"]["kernel"].shape[2])
    return Prior(params=params, network=network, image_shape=shape, about=PriorMetadata(source=path.name))


def _image_shape(config: ConfigDict, workdir: pathlib.Path) -> tuple[int, int, int]:
    """What the run wrote down of its images; of a run of before, that of the images themselves."""
    path = workdir / "split.json"
    shape = read_json(path).get("image_shape") if path.exists() else None
    return check_image_shape(shape or data.load_split(config.data).train.shape[1:], path)


def _check_room(state: Any, workdir: pathlib.Path) -> None:
    """Refuse a run whose arrays would be larger than its files could hold, before there is room made for them."""
    wanted = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    stored = sum(path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file())
    if stored and is_bomb(wanted, stored):
        raise InputError(f"{workdir} holds {stored} bytes of checkpoints for a state of {wanted}: it is damaged")


def save(folder: pathlib.Path, prior: Prior, half: bool = False) -> None:
    """Write a prior as WEIGHTS and MODEL into a new folder, whole or not at all.

    Args:
      folder: that does not exist yet.
      prior: what to write; its `about` goes into MODEL.
      half: round the weights to bfloat16, half of the room.

    Raises:
      InputError: the folder exists.
    """
    if folder.exists():
        raise InputError(f"{folder} exists: name a folder that does not, or remove it")
    flat = flax.traverse_util.flatten_dict(prior.params, sep="/")
    kept = {name: jnp.asarray(x, jnp.bfloat16 if half else jnp.float32) for name, x in flat.items()}
    model = {
        "network": networks.backbone_options(prior.network),
        "image_shape": list(prior.image_shape),
        "about": dict(prior.about.items()),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write_weights(temporary, kept, model)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: pathlib.Path) -> Prior:
    flat, model = read_weights(folder)
    given, shape, about = dict(model["network"]), model["image_shape"], PriorMetadata(model["about"])
    network = networks.make_backbone(str(given.pop("name", "")), given)
    try:
        expected = _shapes(network, shape)
    except Exception as error:  # whatever a network raises of images that it is not made for
        raise InputError(f"{folder / MODEL} describes no network ({reason(error)}): get the checkpoint anew") from error
    for name in sorted(expected.keys() | flat.keys()):
        was, wanted = (arrays[name].shape if name in arrays else None for arrays in (flat, expected))
        if was != wanted:
            raise InputError(
                f"{folder / WEIGHTS}: {name} has the shape {was}, the network of {MODEL} asks for {wanted}"
            )
    params = flax.traverse_util.unflatten_dict({name: x.astype(jnp.float32) for name, x in flat.items()}, sep="/")
    return Prior(params=params, network=network, image_shape=shape, about=about)


def _shapes(network: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    given = (jax.ShapeDtypeStruct(image_shape, jnp.float32), 0.0, 0.0)
    params = jax.eval_shape(network.init, jax.random.key(0), *given)["params"]
    return flax.traverse_util.flatten_dict(params, sep="/")
