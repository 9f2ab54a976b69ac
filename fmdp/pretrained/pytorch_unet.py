"""The released PyTorch checkpoints as parameters of ours."""

import re
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fmdp.errors import InputError, require_known
from fmdp.io.torch_files import Checkpoint
from fmdp.io.weights import take_array
from fmdp.networks.unet import UNet
from fmdp.networks.weight_net import WeightNet

CLASSES = {"flow_map": "AMFPrecond", "meanflow": "MFPrecond"}
"""The kinds of released networks, and the classes that their pickles name.

Both have the same arrays and compute different fields: a MeanFlow network predicts minus the velocity, from the noise
level 1 - s and the interval t - s, and takes both in by another conditioning (`UNet.meanflow`).
"""

UNREAD = ("weight_net", "map_augment", "map_label")
"""The parts of a checkpoint beside the U-Net: of use in training only, or never read by a flow map."""

UNSUPPORTED = ("anisotropic_noise", "bin_spectrum", "homogeneous_norm")
"""The switches of the published networks that change what the same arrays compute."""


def unet_kind(checkpoint: Checkpoint, kind: str | None) -> str:
    """The kind of network in a checkpoint, one of CLASSES: what the file says, or `kind` where it does not say.

    Raises:
      InputError: neither says, they contradict each other, or the network has a switch on that is not supported.
    """
    if kind is not None:
        require_known("kind: unknown kind of network", kind, CLASSES)
    if switched := sorted(checkpoint.switches.intersection(UNSUPPORTED)):
        raise InputError(f"its network was made with {switched[0]}=True, which fmdp does not support: name another")
    named = checkpoint.network_class
    stated = next((known for known, name in CLASSES.items() if name == named), None)
    if stated and kind not in (None, stated):
        raise InputError(f"kind={kind}: the file says that its network is of the kind {stated} ({named}): leave it out")
    if not (known := stated or kind):
        says = f"says only that its network is of the class {ascii(named)[1:-1][:60]}" if named else "does not say"
        ways = "pass --kind=flow_map to python -m fmdp.convert (kind='flow_map' to fmdp.load), or meanflow"
        raise InputError(f"the file {says}, so a flow map and a MeanFlow network look the same: {ways}")
    return known


def unread_parts(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The parts of a checkpoint that `unet_from_state_dict` leaves out, and how many numbers each has."""
    prefix, counts = _prefix(arrays, "map_layer0.weight"), dict[str, int]()
    for name, array in arrays.items():
        part = name.removeprefix(prefix).split(".")[0]
        if part in UNREAD or not name.startswith(prefix):
            counts[part] = counts.get(part, 0) + int(np.size(array))
    return counts


def unet_from_state_dict(arrays: Mapping[str, np.ndarray], kind: str = "flow_map") -> tuple[UNet, dict]:
    """The U-Net whose weights are among these arrays, its architecture read off their names and shapes.

    Args:
      arrays: by their names in a released checkpoint, `model.enc.64x64_conv.weight` and so on. Any prefix will do. What
        does not share it is left alone, and so is the embedding of augmentations, which are absent outside of training.
      kind: a key of CLASSES. Labels are left alone in a flow map, which ignores them.

    Returns:
      The network, and its parameters in float32: network.apply({"params": params}, x, s, t) is the velocity from noise
      (time 0) to data (time 1).

    Raises:
      InputError: an array is missing, of another shape than the rest implies, or has no place in the network; or a
        MeanFlow network reads labels or has adaptive scales.
    """
    prefix = _prefix(arrays, "map_layer0.weight")
    inside = {name.removeprefix(prefix) for name in arrays if name.startswith(prefix)}
    names = {name for name in inside if name.split(".")[0] not in UNREAD}
    meanflow = kind == "meanflow"
    if meanflow and any(name.startswith("map_label.") for name in inside):
        raise InputError("a MeanFlow network with labels (map_label) is not supported: name one without them")

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
        meanflow=meanflow,
    )
    if meanflow and network.adaptive:
        raise InputError("a MeanFlow network with adaptive scales is not supported: name one without them")

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
    return network, _in_our_time(params) if meanflow else params


def _in_our_time(params: dict) -> dict:
    """The parameters of a MeanFlow network for minus its velocity, and with the cosines before the sines."""
    first, last = params["map_layer0"], params["dec_0_aux_conv"]
    cosines_first = jnp.roll(first["kernel"], len(first["kernel"]) // 2, axis=0)
    return params | {
        "map_layer0": first | {"kernel": cosines_first},
        "dec_0_aux_conv": jax.tree.map(jnp.negative, last),
    }


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
