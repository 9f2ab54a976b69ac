"""The released PyTorch checkpoints as parameters of ours."""

import re
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fmdp.errors import InputError
from fmdp.io.weights import take_array
from fmdp.networks.unet import UNet
from fmdp.networks.weight_net import WeightNet


def unet_from_state_dict(arrays: Mapping[str, np.ndarray]) -> tuple[UNet, dict]:
    """The U-Net whose weights are among these arrays, its architecture read off their names and shapes.

    Args:
      arrays: by their names in a released checkpoint, `model.enc.64x64_conv.weight` and so on. Any prefix will do,
        and what does not share it is left alone.

    Returns:
      The network, and its parameters in float32: network.apply({"params": params}, x, s, t).

    Raises:
      InputError: an array is missing, of another shape than the rest implies, or has no place in the network.
    """
    prefix = _prefix(arrays, "map_layer0.weight")
    others = f"{prefix}weight_net."
    names = {name.removeprefix(prefix) for name in arrays if name.startswith(prefix) and not name.startswith(others)}

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = np.shape(arrays.get(prefix + name, ()))
        if len(found) != rank or 0 in found:
            raise InputError(f"{prefix}{name} is missing or has the shape {found}: it must have {rank} non-empty axes")
        return found

    levels = {match[0]: int(match[1]) for name in names if (match := re.match(r"enc\.(\d+)x\1_", name))}
    stems = sorted(levels, key=lambda stem: -levels[stem])
    if not stems:
        raise InputError(f"no array is called {prefix}enc.64x64_...: this is not a checkpoint of the two-time U-Net")
    channels, colours, _, _ = shape(f"{stems[0]}conv.weight", 4)
    widths = [shape(f"{stem}block0.norm1.weight", 1)[0] for stem in stems]
    if any(width % channels for width in widths):
        raise InputError(f"{prefix}{stems[0]}conv.weight has {channels} channels; {widths} must be multiples of it")
    filters = sorted(name for name in names if name.endswith("resample_filter"))
    taps = {_taps(arrays[prefix + name]) for name in filters if shape(name, 4)} or {tuple(UNet.resampling)}
    if len(taps) > 1:
        raise InputError(f"{prefix}{filters[0]} differs from another resample_filter: one filter serves all levels")
    network = UNet(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=sum(re.fullmatch(rf"{re.escape(stems[0])}block\d+\.norm0\.weight", name) is not None for name in names),
        attention=tuple(levels[stem] for stem in stems if f"{stem}block0.qkv.weight" in names),
        resolution=levels[stems[0]],
        resampling=taps.pop(),
        adaptive=shape(f"{stems[0]}block0.affine.weight", 2)[0] == 2 * widths[0],
    )

    def released(path: tuple[str, ...]) -> str:
        first, *rest, kind = path
        if match := re.fullmatch(r"(enc|dec)_(\d+)_(.*)", first):
            part, level, block = match.groups()
            first = stems[int(level)].replace("enc", part, 1) + block
        return prefix + ".".join([first, *rest, "bias" if kind == "bias" else "weight"])

    image = jax.ShapeDtypeStruct((network.resolution, network.resolution, colours), jnp.float32)
    params, used = _convert(network, (image, 0.0, 0.0), arrays, released)
    if unused := sorted({prefix + name for name in names.difference(filters)} - used):
        raise InputError(f"{unused[0]} has no place in the U-Net that the other arrays describe")
    return network, params


def weight_net_from_state_dict(arrays: Mapping[str, np.ndarray]) -> tuple[WeightNet, dict]:
    """The learned log-variance whose weights are among these arrays, as `unet_from_state_dict` returns the U-Net.

    Raises:
      InputError: an array is missing, or of another shape than the rest implies.
    """
    prefix = _prefix(arrays, "conv1.weight", "weight_net.")
    network = WeightNet(width=len(np.atleast_1d(arrays[f"{prefix}conv1.weight"])))
    params, _ = _convert(network, (0.0, 0.0), arrays, lambda path: f"{prefix}{path[0]}.weight")
    return network, params


def _prefix(arrays: Mapping[str, np.ndarray], name: str, inner: str = "") -> str:
    for candidate in arrays:
        if candidate.endswith(inner + name):
            return candidate.removesuffix(name)
    raise InputError(f"no array is called {inner}{name}: this is not a checkpoint of the two-time U-Net")


def _taps(kernel: np.ndarray) -> tuple[float, ...]:
    """The filter along one axis, of which the stored one is the outer product over its squared sum."""
    return tuple(np.asarray(kernel, np.float64).sum((0, 1, 2)).round(6).tolist())


def _convert(
    network: nn.Module,
    inputs: tuple,
    arrays: Mapping[str, np.ndarray],
    released: Callable[[tuple[str, ...]], str],
) -> tuple[dict, set[str]]:
    """The parameters of a network from the arrays that `released` names, and the names of those used."""
    used = set()

    def fill(path, leaf):
        name = released(tuple(key.key for key in path))
        used.add(name)
        # Theirs are [out, in, height, width], [out, in] or [out, in, 1, 1]; ours end in [in, out].
        expected = (*leaf.shape[:-3:-1], *leaf.shape[:-2])
        array = take_array(arrays, name, expected, (*expected, 1, 1)).astype(np.float32).reshape(expected)
        if ".qkv." in name:  # theirs interleaves query, key and value channel by channel
            array = array.reshape(-1, 3, *expected[1:]).swapaxes(0, 1).reshape(expected)
        return jnp.asarray(array.transpose(*range(2, array.ndim), *range(min(array.ndim, 2))[::-1]))

    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return jax.tree_util.tree_map_with_path(fill, shapes), used
