"""Released checkpoints made small: random arrays under the names of the published files."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from fmdp import networks


def released():
    """The arrays of a tiny U-Net as a released file names them."""
    network = networks.make_backbone(
        "unet", dict(channels=4, multipliers=(1, 2), blocks=1, attention=(4,), resolution=8)
    )
    image = jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image, 0.0, 0.0)["params"]
    found, rng = {}, np.random.default_rng(0)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        first, *rest, kind = (key.key for key in path)
        if match := re.fullmatch(r"(enc|dec)_(\d+)_(.*)", first):
            part, level, block = match.groups()
            first = f"{part}.{('8x8', '4x4')[int(level)]}_{block}"
        name = ".".join([first, *rest, "bias" if kind == "bias" else "weight"])
        found[name] = rng.normal(size=(*leaf.shape[:-3:-1], *leaf.shape[:-2])).astype(np.float32)
    return found
