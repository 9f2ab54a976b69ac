"""The networks an average field can be made of, one backbone per file."""

from collections.abc import Mapping

import flax.linen as nn

from fmdp.errors import InputError
from fmdp.networks.mlp import MLP
from fmdp.networks.unet import UNet

BACKBONES: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet}


def make(name: str, options: Mapping) -> nn.Module:
    """The backbone called `name`; its fields are set from `options`.

    Raises:
      InputError: the backbone, or one of the options, is not known.
    """
    if name not in BACKBONES:
        raise InputError(f"config.network.name = {name!r}: must be one of {', '.join(BACKBONES)}")
    known = set(BACKBONES[name].__dataclass_fields__) - {"parent", "name"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"config.network.{unknown[0]}: {name} knows only {', '.join(sorted(known))}")
    return BACKBONES[name](**options)
