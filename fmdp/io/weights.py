"""The weights of a network as files: named arrays in weights.safetensors, and what describes them in model.json.

Reading them executes nothing. `model.json` is an object with `format` (1), `network` (the options of the network, its
`name` among them), `image_shape` ([height, width, channels]) and `about` (an object of anything worth knowing).
A fully convolutional network may have `tiling`: the `size` of its best tiles and their `margin`.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.flax import save

from fmdp.errors import InputError, translating
from fmdp.io.files import atomic_write, read_json, write_json

FORMAT = 1
WEIGHTS, MODEL = "weights.safetensors", "model.json"
KINDS = {"format": int, "network": dict, "about": dict}  # of entries of MODEL
MAX_IMAGE_SIDE = 2**20  # pixels a side of the images of a network
REMEDY = "get the checkpoint anew"


def write_weights(folder: pathlib.Path, arrays: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Write both files into a folder that exists, each complete or not at all; process 0 writes.

    Args:
      arrays: by name.
      model: `network`, `image_shape` and `about`, as plain JSON.
    """
    with atomic_write(folder / WEIGHTS) as temporary:
        digests = {"sha256": digest_arrays(arrays), "model_sha256": _digest_model(model)}
        temporary.write_bytes(save(dict(arrays), digests))  # save_file would let nobody else read it
    write_json(folder / MODEL, {"format": FORMAT, **model})


def read_weights(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any], bool]:
    """The arrays by name, the contents of model.json, and whether both are as they were written together.

    Raises:
      InputError: a file is missing or damaged, or of a newer format.
    """
    model = _read_model(folder / MODEL)
    path = folder / WEIGHTS
    # safetensors raises errors of many kinds for a damaged file.
    with translating(lambda why: f"{path} cannot be read ({why}): {REMEDY}", Exception), safe_open(path, "np") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("sha256") not in (None, digest_arrays(arrays)):  # version 0.1.0 wrote no digest
        raise InputError(f"{path} is damaged (an array was changed): {REMEDY}")
    return arrays, model, metadata.get("model_sha256") == _digest_model(model)


def _read_model(path: pathlib.Path) -> dict[str, Any]:
    model = read_json(path)
    wrong = [key for key, kind in KINDS.items() if not isinstance(model.get(key), kind)]
    if wrong:
        raise InputError(f"{path} is damaged ({wrong[0]!r} is missing or of another kind): {REMEDY}")
    if (version := model["format"]) != FORMAT:
        raise InputError(f"{path.parent} is of format {version}, this fmdp reads {FORMAT}: install a newer fmdp")
    _check_tiling(model.get("tiling"), path)
    return model | {"image_shape": check_image_shape(model.get("image_shape"), path)}


def _check_tiling(value: Any, path: pathlib.Path) -> None:
    """Raises InputError unless it is absent or an object of a size and a margin of at most a quarter of it."""
    if value is None:
        return
    known = (
        isinstance(value, dict) and value.keys() == {"size", "margin"} and all(type(n) is int for n in value.values())
    )
    if not known or not 0 <= 4 * value["margin"] <= value["size"] <= MAX_IMAGE_SIDE or value["size"] < 1:
        raise InputError(f"{path} is damaged (tiling {str(value)[:60]}): {REMEDY}")


def check_image_shape(value: Any, path: pathlib.Path) -> tuple[int, int, int]:
    """The image shape (H, W, C) that a file names.

    Raises:
      InputError: it is not a list of three sizes.
    """
    sizes = value if isinstance(value, list | tuple) else ()
    if len(sizes) != 3 or not all(type(n) is int and 1 <= n <= MAX_IMAGE_SIDE for n in sizes):
        raise InputError(f"{path} is damaged (images of shape {str(value)[:60]}): get it anew")
    height, width, channels = sizes
    return (height, width, channels)


def take_array(arrays: Mapping[str, np.ndarray], name: str, *shapes: tuple[int, ...]) -> np.ndarray:
    """The array of this name.

    Raises:
      InputError: it is missing, or has none of the shapes.
    """
    if name not in arrays or np.shape(arrays[name]) not in shapes:
        found = f"has the shape {np.shape(arrays[name])}" if name in arrays else "is missing"
        raise InputError(f"{name} {found}; the network takes {shapes[0]}: name a file of its weights")
    return np.asarray(arrays[name])


def digest_arrays(arrays: Mapping[str, Any]) -> str:
    """The SHA-256 of all names and arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        x = np.asarray(array)
        digest.update(f"{name} {x.dtype} {x.shape}".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def _digest_model(model: Mapping[str, Any]) -> str:
    """The SHA-256 of what says which arrays there must be."""
    described = json.dumps([model["network"], list(model["image_shape"])], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()
