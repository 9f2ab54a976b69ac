"""The networks that an average field can be made of, one backbone per file."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from fmdp.errors import InputError, kind_fault, require_known
from fmdp.networks.mlp import MLP
from fmdp.networks.norms import NORMS
from fmdp.networks.unet import UNet
from fmdp.parallel.precision import AUTO

BACKBONES: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet}

BLOCK_RANGE, NUMBER_RANGE, MAX_LIST_LENGTH = (0, 128), (1, 2**16), 8
DTYPES = (AUTO, "bfloat16", "float16", "float32", "float64")


def make_backbone(name: str, options: Mapping) -> nn.Module:
    """The backbone called `name`, with its fields set from `options`.

    Raises:
      InputError: the backbone or an option is unknown, or a value is not one that the option can have.
    """
    require_known("config.network.name: unknown backbone", name, BACKBONES)
    known = sorted(BACKBONES[name].__dataclass_fields__.keys() - {"parent", "name"})
    for key, value in options.items():
        require_known(f"config.network: unknown option of {name}", key, known)
        if fault := _fault(key, value, getattr(BACKBONES[name], key)):
            raise InputError(f"config.network.{key} = {str(value)[:60]!r}: must be {fault}")
    return BACKBONES[name](**options)


def backbone_options(network: nn.Module) -> dict[str, Any]:
    """The name and the options of a backbone, as `make_backbone` takes them.

    Of a network of one's own, which is not in BACKBONES, only the dotted name of its class.
    """
    kind = type(network)
    name = next((name for name, known in BACKBONES.items() if known is kind), None)
    if name is None:
        return {"name": f"{kind.__module__}.{kind.__qualname__}"}
    fields = set(network.__dataclass_fields__) - {"parent", "name"}
    return {"name": name} | {key: getattr(network, key) for key in sorted(fields)}


def _fault(key: str, value: Any, default: Any) -> str:
    """What an option should be instead, if anything: values may come from a downloaded file, and must be reasonable."""
    if isinstance(default, tuple):
        shortest = 0 if key == "attention" else 1
        if not isinstance(value, tuple | list) or not shortest <= len(value) <= MAX_LIST_LENGTH:
            return f"a list of {shortest} to {MAX_LIST_LENGTH} numbers"
        return next(filter(None, (_fault(key, x, default[0]) for x in value)), "")
    if key == "norm":
        return "" if value in NORMS else f"one of {', '.join(NORMS)}"
    if default is None:
        return "" if value is None or value in DTYPES else f"None or one of {', '.join(DTYPES)}"
    least, most = BLOCK_RANGE if key == "blocks" else NUMBER_RANGE
    fault = kind_fault(value, type(default), most + 1)
    return fault or ("" if type(default) is not int or value >= least else f"a whole number from {least} to {most}")
