"""Random weights in the layout of the published files, and what independent networks make of them.

published.json was written with torchvision, pytorch-fid and lpips; tests/metrics/test_metric_networks_torch.py checks
it against them where they are installed.
"""

import json
import pathlib

import numpy as np

from fmdp.metrics import weights

STORED = json.loads(pathlib.Path(__file__).with_name("published.json").read_text())
VGG = (2, 33, 39, 3)
IMAGES = {"inception": (2, 353, 53, 3), "lpips_alex": (2, 45, 61, 3), "lpips_vgg": VGG, "dists": VGG, "vgg16": VGG}


def layout(network: str) -> dict[str, list[int]]:
    """The arrays of the published files of a network by name, with their shapes."""
    if network in ("dists", "vgg16"):
        return {name: shape for name, shape in layout("lpips_vgg").items() if not name.startswith("lin")}
    shapes = {}
    for name, shape in STORED[network]["kernels"].items():
        if network == "inception":
            shapes[f"{name}.conv.weight"] = shape
            shapes |= {f"{name}.bn.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
        else:
            shapes[f"{name}.weight"] = shape
            shapes |= {} if name.startswith("lin") else {f"{name}.bias": shape[:1]}
    return shapes | ({"fc.weight": [1008, 2048], "fc.bias": [1008]} if network == "inception" else {})


def random_arrays(network: str) -> dict[str, np.ndarray]:
    """Random weights in that layout, such that activations keep their size from layer to layer."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        if name.endswith(("bn.weight", "running_var")) or name.startswith("lin"):
            return rng.uniform(0.5, 1.5, shape)
        return rng.standard_normal(shape) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.2)

    return {name: draw(name, shape).astype(np.float32) for name, shape in layout(network).items()}


def random_images(network: str, shape=None) -> np.ndarray:
    """Random images in [-1, 1] of an odd size, smooth and not."""
    rng = np.random.default_rng(1)
    n, h, w, c = shape or IMAGES[network]
    waves = np.sin(np.linspace(0, 9, h)[:, None, None] * rng.random((n, 1, 1, c)) + np.linspace(0, 7, w)[:, None])
    return (0.7 * waves + 0.3 * rng.uniform(-1, 1, (n, h, w, c))).astype(np.float32)


def write_random_weights(folder: pathlib.Path, *networks: str) -> None:
    """Leave random weights in a folder as `fmdp.metrics.weights` finds converted ones."""
    for name in networks:
        source = weights.SOURCES[name]
        params = source.releases[-1].convert(random_arrays(name))  # in the layout of torch's files
        weights.save_weights(folder / f"{name}.npz", weights.Weights(source.network, params, "random"))
