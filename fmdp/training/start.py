"""Starting a new run from trained weights: what it takes from them, and whether they fit its network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fmdp import networks
from fmdp.errors import InputError
from fmdp.networks.unet import UNet
from fmdp.training.state import make_network

FREE_OPTIONS = frozenset({"dropout", "dtype", "remat"})
"""Options of a network that change how it is trained, and neither its arrays nor what they mean."""
PLACES = frozenset({"attention", "resolution"})
"""Options of a network that only decide where it has attention, which its arrays tell."""
REMEDY = "set config.network as in the weights, or name other weights"
NAMED = 3  # arrays in a message
KEPT = 0.05
"""The share of the given weights in the average at the end of a run above which a line says so."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights that a new run starts from; both its parameters and their average begin with them.

    Attributes:
      params: parameters of the network, as arrays of the host in float32.
      network: the network that they were trained in.
      image_shape: (H, W, C) of the images that they were trained on.
      record: what a summary says of them: `source`, `sha256` and, where known, `name` and `steps`.
    """

    params: Any
    network: nn.Module
    image_shape: tuple[int, int, int]
    record: dict[str, str | int]

    def __str__(self) -> str:
        """What they are, for a person."""
        known = [str(self.record["name"])] if self.record.get("name") not in (None, self.record["source"]) else []
        known += [f"{self.record['steps']} steps"] if "steps" in self.record else []
        return f"{self.record['source']}{' (' if known else ''}{', '.join(known)}{')' if known else ''}"


def require_fit(start: Start, config: ConfigDict, image_shape: tuple[int, ...]) -> None:
    """Refuse weights that are not those of the network of a configuration on images [H, W, C].

    A U-Net is convolutional, so it may have been trained at another size.

    Raises:
      InputError: naming the options of the network or the arrays that differ.
    """
    what, network = f"config.train.start_from={start.record['source']}", make_network(config)
    options = _differing_options(network, start.network)
    if options.keys() - PLACES:
        raise InputError(f"{what} does not fit config.network: {'; '.join(options.values())}: {REMEDY}")
    (*size, channels), (*their_size, their_channels) = image_shape, start.image_shape
    if channels != their_channels:
        images = f"the images have {channels} channels, and those of the weights had {their_channels}"
        remedy = "choose images of the same kind (config.data.channels, for pictures), or name other weights"
        raise InputError(f"{what} does not fit the data: {images}: {remedy}")
    if size != their_size and not isinstance(network, UNet):
        images = f"the sides are {size}, and were {their_size}"
        raise InputError(f"{what} does not fit the data: {images}: only a U-Net can change them, name other weights")
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(image_shape), 0.0, 0.0)["params"]
    arrays = flax.traverse_util.flatten_dict(start.params, sep="/")
    if faults := _differing_arrays(flax.traverse_util.flatten_dict(shapes, sep="/"), arrays):
        more = [f"and {len(faults) - NAMED} more"] if len(faults) > NAMED else []
        found = "; ".join([*options.values(), *faults[:NAMED], *more])
        raise InputError(f"{what} does not fit config.network: {found}: {REMEDY}")
    if broken := [name for name, x in sorted(arrays.items()) if not np.isfinite(x).all()]:
        raise InputError(f"{what} cannot be trained: its array {broken[0]} is not finite: name other weights")


def announcement(start: Start, config: ConfigDict) -> str:
    """What a run says at its start: what it begins with, and whether its average is too long to leave it.

    The average begins with the given weights, and keeps the share .5^(images / half-life) of them.
    """
    text = f"starts from the weights of {start}; the optimizer and the step count are new"
    images, half_life = config.train.steps * config.train.batch_size, config.ema.half_life
    kept = 0.5 ** (images / half_life)
    if kept <= KEPT:
        return text
    long = f"config.ema.half_life={half_life:.12g} is long for a run of {images} images"
    remedy = f"to learn something new, shorten it to {images // 10} or train for longer"
    return f"{text}\n{kept:.0%} of the average will still be the given weights at the end: {long}: {remedy}"


def _differing_options(ours: nn.Module, theirs: nn.Module) -> dict[str, str]:
    """By option that differs and matters, how it does; only the name where the networks are of two kinds."""
    own, other = (
        {key: tuple(x) if isinstance(x, list) else x for key, x in networks.backbone_options(network).items()}
        for network in (ours, theirs)
    )
    keys = sorted(own) if own["name"] == other["name"] else ["name"]
    return {
        key: f"config.network.{key} is {_as_flag(own[key])}, and {_as_flag(other[key])} in the weights"
        for key in keys
        if own[key] != other[key] and key not in FREE_OPTIONS
    }


def _as_flag(value: Any) -> str:
    return str(value).replace(" ", "")


def _differing_arrays(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One text for each array that is missing, of another shape or without a place in the network."""
    own, other = ({name: x.shape for name, x in tree.items()} for tree in (wanted, found))
    return [
        f"array {name} is missing from the weights, and has the shape {own[name]} in the network"
        if name not in other
        else f"array {name} of shape {other[name]} has no place in the network"
        if name not in own
        else f"array {name} has the shape {own[name]} in the network, and {other[name]} in the weights"
        for name in sorted(own.keys() | other.keys())
        if own.get(name) != other.get(name)
    ]
