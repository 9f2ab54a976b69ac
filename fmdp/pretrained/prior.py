"""Priors: trained average fields read from files. Nothing in a file is executed."""

import os
import pathlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fmdp import networks
from fmdp.errors import InputError, translating
from fmdp.flow.average_field import Times, as_point
from fmdp.flow.dtypes import field_dtype, is_floating
from fmdp.flow.tiling import Tiling
from fmdp.io.files import expand_path
from fmdp.io.torch_files import read_checkpoint
from fmdp.io.weights import MODEL, REMEDY, WEIGHTS, read_weights, write_weights
from fmdp.pretrained.pytorch_unet import unet_from_state_dict, unet_kind, unread_parts

SHIPPED_WEIGHTS = pathlib.Path(__file__).parent / "weights"


class PriorMetadata(dict):
    """What is known of a prior, as plain JSON, with a hash, so that it can be a static pytree field."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Equal dicts have equal hashes, so a prior that is loaded again reuses the compiled programs."""
        return hash(frozenset(self))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, repr=False)
class Prior:
    """A trained average field (x, s, t) -> v over images [..., H, W, C]; a pytree, so it can be an argument of jit.

    >>> prior = load("fashion_mnist")
    >>> velocity = jax.jit(lambda prior, x: prior(x, 0.5, 1.0))
    >>> velocity(prior, jnp.zeros((2, 28, 28, 1))).shape
    (2, 28, 28, 1)

    Attributes:
      params: parameters of the network, in float32.
      network: the backbone.
      image_shape: (H, W, C) of the training images.
      about: data, licence, steps and scores, from model.json.
      tiling: the tiles in which it restores larger images best, where its network is fully convolutional and this has
        been measured.
    """

    params: Any
    network: nn.Module = field(metadata=dict(static=True))
    image_shape: tuple[int, int, int] = field(metadata=dict(static=True))
    about: PriorMetadata = field(metadata=dict(static=True))
    tiling: Tiling | None = field(default=None, metadata=dict(static=True))

    @property
    def stride(self) -> int | None:
        """What the sides of its images are multiples of, where they may be of any size; None for one size alone."""
        return getattr(self.network, "stride", None)

    @property
    def floats_per_pixel(self) -> int | None:
        """About how many numbers one evaluation holds at once for each pixel; None where nobody has counted them."""
        return getattr(self.network, "floats_per_pixel", None)

    def __repr__(self) -> str:
        """The network, the size of its images and the number of its parameters, without the arrays."""
        count = sum(int(np.prod(np.shape(x))) for x in jax.tree.leaves(self.params))
        return f"Prior({type(self.network).__name__}, image_shape={self.image_shape}, {count:,} parameters)"

    def __call__(self, x: Any, s: Times, t: Times) -> Array:
        """The mean velocity of the flow from x at time s to time t, with the shape of x.

        Raises:
          InputError: images of another shape than the network takes, or other than real numbers.
        """
        own = isinstance(x, jax.Array) and is_floating(x) and x.dtype.itemsize >= 2
        x, s, t = as_point(x, s, t, x.dtype if own else field_dtype(self.params))
        wanted = self.image_shape if isinstance(self.network, networks.MLP) else self.image_shape[2:]
        if x.shape[-len(wanted) :] != wanted:
            takes = f"images {self.image_shape}" + " and other sizes" * (wanted != self.image_shape)
            raise InputError(f"x has shape {x.shape}, but this prior takes {takes}: pass [..., H, W, C]")
        return cast(Array, self.network.apply({"params": self.params}, x, s, t))


def load(path: Any, *, kind: str | None = None, network: nn.Module | None = None) -> Prior:
    """Load a trained average field.

    >>> prior = load("fashion_mnist")
    >>> prior.image_shape, prior.about["licence"]
    ((28, 28, 1), 'Apache-2.0, of the data MIT')

    Args:
      path: the name of a prior that ships with fmdp (`shipped` lists them), the workdir of a run, a folder with
        weights.safetensors and model.json, or a released checkpoint of the two-time U-Net.
      kind: of the network in a released checkpoint that does not say so itself: "flow_map" or "meanflow".
      network: that of a folder which `save` wrote with a network of your own. Its code is not in the folder, and no
        name in a file is ever imported.

    Returns:
      The prior; its parameters are the average over training.

    Raises:
      InputError: the checkpoint does not exist, is damaged, or has a newer format; or it needs a kind or a network that
        was not given, or has its own.
    """
    folder = find_prior(path)
    if folder.is_file() and network is None:
        return from_file(folder, kind)
    if kind is not None:
        raise InputError(f"{folder} with kind={kind}: only a released checkpoint has a kind, leave it out")
    if (folder / MODEL).is_file():
        return _read(folder, network)
    if network is not None:
        raise InputError(f"{folder} with a network: only a folder that holds one of your own takes it, leave it out")
    if (folder / "config.json").is_file():
        from fmdp.pretrained.workdir import prior_of_workdir  # imports all that training needs

        return prior_of_workdir(folder)
    raise InputError(f"{folder} holds neither {MODEL} nor a run's config.json: name a checkpoint or a run's folder")


def find_prior(path: Any) -> pathlib.Path:
    """The path of a checkpoint: the given path, or the folder of a prior that ships with fmdp.

    Raises:
      InputError: neither exists.
    """
    folder = expand_path(path)
    if not folder.exists() and (SHIPPED_WEIGHTS / str(path)).is_dir() and len(pathlib.PurePath(path).parts) == 1:
        return SHIPPED_WEIGHTS / str(path)
    if not folder.exists():
        beside = (found.parent for found in sorted(folder.parent.glob("*/config.json")))
        known = ", ".join([*shipped(), *(str(run) for run in beside)][:20])
        config, run = pathlib.Path("configs", f"{folder.name}.py"), pathlib.Path("runs", folder.name)
        hint = f"train it with python -m fmdp.main --config={config} --workdir={path}, or " if config.is_file() else ""
        hint = f"did you mean {run}? Otherwise " if (run / "config.json").is_file() else hint
        raise InputError(f"no checkpoint {str(path)!r}: {hint}name a folder of one, or one of {known}")
    return folder


def shipped() -> list[str]:
    """The names of the priors that ship with fmdp."""
    return sorted(path.parent.name for path in SHIPPED_WEIGHTS.glob(f"*/{MODEL}"))


def from_file(path: pathlib.Path, kind: str | None = None) -> Prior:
    """The two-time U-Net in a released checkpoint (.pkl, .pt, .safetensors, .npz). Nothing in the file is executed.

    Args:
      path: of the file, which gzip may have compressed.
      kind: of the network, "flow_map" or "meanflow", where the file does not say.

    Returns:
      The prior; its `about` has the kind, and under `left_out` the parts that were not read, with their sizes.

    Raises:
      InputError: the file cannot be read, does not say which kind of network it holds, or its arrays do not belong to
        such a network.
    """
    checkpoint = read_checkpoint(path)
    with translating(lambda why: f"{path}: {why}", InputError):
        left_out = unread_parts(checkpoint.arrays)
        kind = unet_kind(checkpoint, kind)
        network, params = unet_from_state_dict(checkpoint.arrays, kind)
    shape = (network.resolution, network.resolution, params["enc_0_conv"]["kernel"].shape[2])
    about = PriorMetadata(source=path.name, kind=kind, left_out=left_out)
    return Prior(params=params, network=network, image_shape=shape, about=about)


def save(folder: pathlib.Path, prior: Prior, half: bool = False) -> None:
    """Write a prior as WEIGHTS and MODEL into a new folder, complete or not at all.

    Args:
      folder: must not exist yet.
      prior: what to write; its `about` goes into MODEL. Of a network of your own only the name of its class does, so
        that `load` needs the network.
      half: round the weights to bfloat16, which halves the file.

    Raises:
      InputError: the folder exists, or cannot be one.
    """
    folder = expand_path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists: name a folder that does not, or remove it")
    flat = flax.traverse_util.flatten_dict(prior.params, sep="/")
    arrays = {name: jnp.asarray(x, jnp.bfloat16 if half else jnp.float32) for name, x in flat.items()}
    model = {
        "network": networks.backbone_options(prior.network),
        "image_shape": list(prior.image_shape),
        "about": dict(prior.about.items()),
    } | ({"tiling": prior.tiling._asdict()} if prior.tiling else {})
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write_weights(temporary, arrays, model)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: pathlib.Path, own: nn.Module | None) -> Prior:
    """The prior in a folder that `save` or a training run wrote, where needed with a network of the caller's own."""
    arrays, model, matched = read_weights(folder)
    options, image_shape = dict(model["network"]), model["image_shape"]
    name = str(options.pop("name", ""))
    is_own = own is not None or "." in name
    network = _own_network(folder, name, own) if is_own else networks.make_backbone(name, options)
    if is_own:
        _check_shapes(arrays, network, image_shape, folder, "network=", "pass the network that was saved")
    elif not matched:
        _check_shapes(arrays, network, image_shape, folder, str(folder / MODEL), REMEDY)
    flat = jax.device_put({name: x.astype(np.float32) for name, x in arrays.items()})
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    about, tiling = PriorMetadata(model["about"]), model.get("tiling")
    tiling = tiling and Tiling(**tiling)
    return Prior(params=params, network=network, image_shape=image_shape, about=about, tiling=tiling)


def _own_network(folder: pathlib.Path, name: str, own: nn.Module | None) -> nn.Module:
    """The caller's own network, if a folder holds weights of its class, which may have moved to another module."""
    said, kind = (ascii(text)[1:-1][:100] for text in (name, name.rpartition(".")[2]))
    if "." not in name:
        raise InputError(f"{folder} holds {said!r}, which is part of fmdp: load it without network=")
    if own is None:
        remedy = f"pass it to fmdp.load, network={kind}(...)"
        raise InputError(f"{folder} holds a network that is not part of fmdp, {said}: {remedy}")
    if (given := type(own).__name__) != name.rpartition(".")[2]:
        raise InputError(f"{folder} holds a network {said}, and network= is a {given}: pass one of that class")
    return own


def _check_shapes(
    arrays: Mapping[str, Any], network: nn.Module, image_shape: tuple, folder: pathlib.Path, source: str, remedy: str
) -> None:
    """Raises InputError unless the arrays are the parameters of the network; tracing it takes about a second.

    The message says that `source` described the network, and what to do.
    """
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    # A network may raise anything for images of an impossible shape.
    what = f"{source} does not describe a network for images of shape {image_shape}"
    with translating(lambda why: f"{what} ({why}): {remedy}", Exception):
        params = jax.eval_shape(network.init, jax.random.key(0), image, 0.0, 0.0)["params"]
    expected = flax.traverse_util.flatten_dict(params, sep="/")
    found, wanted = ({name: x.shape for name, x in tree.items()} for tree in (arrays, expected))
    if differing := sorted(name for name, _ in found.items() ^ wanted.items()):
        shapes = f"{differing[0]} has the shape {found.get(differing[0])}, not {wanted.get(differing[0])}"
        raise InputError(f"{folder / WEIGHTS} does not belong to {source} ({shapes}): {remedy}")
