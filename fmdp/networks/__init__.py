"""The networks an average field can be made of, one backbone per file."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from fmdp.errors import InputError
from fmdp.networks.mlp import MLP
from fmdp.networks.unet import UNet

BACKBONES: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet}

BLOCK_RANGE, NUMBER_RANGE, MAX_LIST_LENGTH = (0, 128), (1, 2**16), 8  # of blocks; of anything else; in a list
DTYPES = ("bfloat16", "float16", "float32", "float64")


def make_backbone(name: str, options: Mapping) -> nn.Module:
    """The backbone called `name`; its fields are set from `options`.

    Raises:
      InputError: the backbone, or one of the options, is not known, or a value is none that it can have.
    """
    if name not in BACKBONES:
        raise InputError(f"config.network.name = {name!r}: must be one of {', '.join(BACKBONES)}")
    known = set(BACKBONES[name].__dataclass_fields__) - {"parent", "name"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"config.network.{unknown[0]}: {name} knows only {', '.join(sorted(known))}")
    for key, value in options.items():
        default = getattr(BACKBONES[name], key)
        if not _fits(value, default, *(BLOCK_RANGE if key == "blocks" else NUMBER_RANGE), empty=key == "attention"):
            raise InputError(
                f"config.network.{key} = {str(value)[:60]!r}: must be of the kind of its default, {default!r}, with"
                f" numbers up to {NUMBER_RANGE[1]} (of blocks to {BLOCK_RANGE[1]}), at most {MAX_LIST_LENGTH} in a list"
            )
    return BACKBONES[name](**options)


def backbone_options(network: nn.Module) -> dict[str, Any]:
    """The name and the options of a backbone, as `make_backbone` takes them."""
    (name,) = (name for name, kind in BACKBONES.items() if isinstance(network, kind))
    fields = set(network.__dataclass_fields__) - {"parent", "name"}
    return {"name": name} | {key: getattr(network, key) for key in sorted(fields)}


def _fits(value: Any, default: Any, least: int, most: int, empty: bool) -> bool:
    """Whether an option is of the kind of its default and within reason, for it may come out of a stranger's file."""
    if isinstance(default, tuple):
        listed = isinstance(value, tuple | list) and (0 if empty else 1) <= len(value) <= MAX_LIST_LENGTH
        return listed and all(_fits(x, default[0], least, most, empty) for x in value)
    if default is None:
        return value is None or (isinstance(value, str) and value in DTYPES)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and least <= value <= most
    return isinstance(value, int | float) and abs(value) <= most
