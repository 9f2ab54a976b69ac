"""Priors: trained average fields read from files. Nothing in a file is executed."""

import json
import os
import pathlib
import shutil
from dataclasses import dataclass, field
from typing import Any, cast

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from safetensors.flax import save_file
from safetensors.numpy import load_file

from fmdp import networks
from fmdp.errors import InputError, reason
from fmdp.io.files import expand_path, read_json
from fmdp.io.torch_files import read_state_dict
from fmdp.pretrained.pytorch_unet import unet_from_state_dict
from fmdp.types import Time

FORMAT = 1
SHIPPED_WEIGHTS = pathlib.Path(__file__).parent / "weights"
MAX_IMAGE_SIDE = 2**20  # pixels a side of the images of a prior
WEIGHTS, MODEL = "weights.safetensors", "model.json"


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
        from fmdp.pretrained.workdir import prior_of_workdir  # imports all that training needs

        return prior_of_workdir(folder)
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


def options(network: nn.Module) -> dict[str, Any]:
    """The backbone's name and options, as in config.network."""
    (name,) = (name for name, kind in networks.BACKBONES.items() if isinstance(network, kind))
    names = set(network.__dataclass_fields__) - {"parent", "name"}
    return {"name": name} | {key: getattr(network, key) for key in sorted(names)}


def check_image_shape(value: Any, where: pathlib.Path) -> tuple[int, int, int]:
    whole = isinstance(value, list | tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
    if not whole or len(value) != 3 or not all(1 <= n <= MAX_IMAGE_SIDE for n in value):
        raise InputError(f"{where} is damaged (images of shape {str(value)[:60]}): get it anew")
    height, width, channels = value
    return (height, width, channels)


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
        "format": FORMAT,
        "network": options(prior.network),
        "image_shape": list(prior.image_shape),
        "about": dict(prior.about.items()),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        save_file(kept, temporary / WEIGHTS)
        (temporary / MODEL).write_text(json.dumps(model, indent=1) + "\n")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: pathlib.Path) -> Prior:
    try:
        model = read_json(folder / MODEL)
        version = model["format"]
        given, shape = dict(model["network"]), check_image_shape(model["image_shape"], folder / MODEL)
        about = PriorMetadata(model["about"])
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MODEL} is damaged ({error!r}): get the checkpoint anew") from error
    if version != FORMAT:
        raise InputError(f"{folder} is of format {version}, this fmdp reads {FORMAT}: install a newer fmdp")
    network = networks.make_backbone(str(given.pop("name", "")), given)
    try:
        flat = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises many kinds for a damaged file
        raise InputError(f"{folder / WEIGHTS} cannot be read ({reason(error)}): get the checkpoint anew") from error
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
    params = flax.traverse_util.unflatten_dict({name: jnp.asarray(x.astype(np.float32)) for name, x in flat.items()}, sep="/")
    return Prior(params=params, network=network, image_shape=shape, about=about)  # type: ignore[arg-type]


def _shapes(network: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    given = (jax.ShapeDtypeStruct(image_shape, jnp.float32), 0.0, 0.0)
    params = jax.eval_shape(network.init, jax.random.key(0), *given)["params"]
    return flax.traverse_util.flatten_dict(params, sep="/")
