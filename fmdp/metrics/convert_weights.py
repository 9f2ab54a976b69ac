"""Conversion of the published weight files to parameters of the metric networks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fmdp.io.weights import take_array
from fmdp.metrics.inception import FEATURES, Inception
from fmdp.metrics.lpips import LPIPS

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


def lpips_params(network: LPIPS, arrays: Mapping[str, np.ndarray]) -> dict:
    """The parameters of `LPIPS` from the merged published state dicts of its backbone and its linear layers.

    Raises:
      InputError: an array is missing or has another shape.
    """

    def layer(name: str, leaves) -> dict | jax.Array:
        if name.startswith("lin"):
            return jnp.asarray(_take(arrays, f"{name}.model.1.weight", (1, *leaves.shape, 1, 1)).ravel(), jnp.float32)
        kernel = _take(arrays, f"{name}.weight", _torch_shape(leaves["kernel"]))
        return _layer(kernel, _take(arrays, f"{name}.bias", kernel.shape[:1]))

    return {name: layer(name, leaves) for name, leaves in params_shapes(network).items()}


def params_shapes(network: Inception | LPIPS) -> dict:
    """The shapes and types of the parameters of a network."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    images = (image,) if isinstance(network, Inception) else (image, image)
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
