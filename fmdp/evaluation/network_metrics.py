"""The measures of an evaluation that need published networks: LPIPS, and those on Inception's features."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.metrics import generative, perception, weights
from fmdp.metrics.generative import FID_IMAGES, Manifold, Moments
from fmdp.metrics.lpips import LPIPS, MIN_SIDE
from fmdp.metrics.perception import NullInterval
from fmdp.metrics.weights import AUTO, NETWORKS, Weights

REAL_IMAGES = 50_000  # largest number of training images that represent the real ones
DEALINGS = 20  # random divisions of the real images into two sets, from which each floor is computed


class Real(NamedTuple):
    """Real images as Inception sees them: features [m, 2048], and what precision and FID need of them."""

    features: Array
    support: Manifold
    moments: Moments

    @classmethod
    def of(cls, features: Array) -> "Real":
        return cls(features, generative.manifold(features), generative.moments(features))


@dataclass(frozen=True, kw_only=True)
class NetworkMetrics:
    """The measures whose weights were found. Without any weights it measures nothing.

    Attributes:
      weights: by name, of NETWORKS.
      real, real_labels: the real images to compare with, and their classes [m]; None without Inception.
      small_fid: whether to compute the FID of fewer than 2,048 images, too.
      batch_size: how many images a network processes at once.
    """

    weights: dict[str, Weights]
    real: Real | None
    real_labels: np.ndarray | None
    small_fid: bool
    batch_size: int

    def per_image(self, restored: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
        """The LPIPS [..., n] of restorations [..., n, H, W, C] of clean images [n, H, W, C], by backbone."""
        *batch, n = restored.shape[:-3]
        flat = restored.reshape(-1, *restored.shape[-4:])
        measures = {}
        for name, (network, params, _) in self.weights.items():
            if isinstance(network, LPIPS):
                parts = [slice(start, start + self.batch_size) for start in range(0, n, self.batch_size)]
                distances = [_lpips(network, params, flat[:, part], clean[part]) for part in parts]
                measures[name] = np.concatenate(jax.device_get(distances), -1).reshape(*batch, n)
        return measures

    def per_set(self, restored: np.ndarray) -> dict[str, np.ndarray]:
        """The distances [k] of sets of restorations [k, n, H, W, C] from the real images."""
        if self.real is None:
            return {}
        every = np.arange(restored.shape[1])
        sets = (_features(self.weights["inception"], images, every, self.batch_size) for images in restored)
        rows = [self._distances(x, self.real) for x in sets]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def floors(self, images: np.ndarray, labels: np.ndarray) -> dict[str, NullInterval]:
        """The interval of each distance between two sets of real images, see `perception.null_interval`.

        The test images and the real ones are repeatedly redistributed at random, class by class, as in the split.
        """
        if self.real is None or self.real_labels is None:
            return {}
        test = _features(self.weights["inception"], images, np.arange(len(images)), self.batch_size)
        vectors = jnp.concatenate([test, self.real.features])
        strata = np.concatenate([labels, self.real_labels])
        rows = []
        for key in jax.random.split(jax.random.key(1), DEALINGS):
            dealt = vectors[perception.deal(key, strata)]
            rows.append(self._distances(dealt[: len(test)], Real.of(dealt[len(test) :])))
        names = [name for name in rows[0] if name != "kid_subset_std"]
        return {name: perception.interval_of(np.array([row[name] for row in rows])) for name in names}

    def _distances(self, x: Array, real: Real) -> dict[str, float]:
        distance, deviation = generative.kid(jax.random.key(0), x, real.features)
        measures = {
            "kid": distance,
            "kid_subset_std": deviation,
            "precision": float(generative.covered(x, real.support)),
            "recall": float(generative.covered(real.features, generative.manifold(x))),
        }
        if self.small_fid or min(len(x), real.moments.images) >= FID_IMAGES:
            measures["fid"] = generative.fid(generative.moments(x), real.moments, small=True)
        return measures


NO_NETWORKS = NetworkMetrics(weights={}, real=None, real_labels=None, small_fid=False, batch_size=1)
"""Measures nothing."""


def load_network_metrics(split: Split, config: ConfigDict) -> NetworkMetrics:
    """The measures that config.evaluate requests and whose weights exist. One line is printed about the missing ones.

    Raises:
      InputError: the configured path holds no usable weights, or a file is not the published one.
    """
    found: dict[str, Weights] = {}
    absent = []
    for key, names in NETWORKS.items():
        where, reasons = config[key], []
        for name in names if where else ():
            reason = _unsuited(name, split.test.shape[1:])
            loaded = None if reason else weights.load_weights(name, where)
            if loaded is None:
                reasons.append(f"{name} needs {reason or weights.describe_wanted(name)}")
            else:
                found[name] = loaded
        if where != AUTO and len(reasons) == len(names):
            raise InputError(f"config.evaluate.{key} = {where!r}: {'; '.join(reasons)}")
        absent += reasons
    real = labels = None
    if "inception" in found:
        chosen = np.random.default_rng(0).permutation(len(split.train))[:REAL_IMAGES]
        real = Real.of(_features(found["inception"], split.train, chosen, config.batch_size))
        labels = split.train_labels[chosen]
        if min(len(chosen), len(split.test)) < FID_IMAGES and not config.small_fid:
            absent.append(f"FID needs {FID_IMAGES} images on either side (read KID, or set config.evaluate.small_fid)")
    if absent:
        print(f"not measured: {'; '.join(absent)}; weights are looked for in {weights.cache_folder()}", flush=True)
    sizes = {"small_fid": config.small_fid, "batch_size": config.batch_size}
    return NetworkMetrics(weights=found, real=real, real_labels=labels, **sizes)


def _features(inception: Weights, images, chosen: np.ndarray, batch_size: int) -> Array:
    """Inception's features [n, 2048] of the n chosen images of a set, which is read a batch at a time."""
    size = min(batch_size, len(chosen))
    parts = []
    for start in range(0, len(chosen), size):
        part = images[chosen[start : start + size]]
        padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
        parts.append(_inception(inception.network, inception.params, padded)[: len(part)])
    return jnp.concatenate(parts)


def _unsuited(name: str, shape: tuple[int, ...]) -> str:
    """What images a network needs instead of those of this shape; "" if they suit it."""
    height, width, colours = shape
    if colours not in (1, 3):
        return f"images of 1 or 3 channels, not {colours}"
    least = MIN_SIDE.get(name.removeprefix("lpips_"), 1)
    return f"images of {least} pixels a side, not {height}x{width}" if min(height, width) < least else ""


def _coloured(images: Array) -> Array:
    return jnp.broadcast_to(images, (*images.shape[:-1], 3))


@partial(jax.jit, static_argnums=0)
def _inception(network, params: dict, images: Array) -> Array:
    """The features of images as they would be read from 8-bit files, which is how published values are computed."""
    pictures = jnp.clip(jnp.round((images + 1) * 127.5), 0, 255)
    return network.apply({"params": params}, _coloured(pictures / 127.5 - 1))


@partial(jax.jit, static_argnums=0)
def _lpips(network: LPIPS, params: dict, restored: Array, clean: Array) -> Array:
    """[k, n] of restorations [k, n, H, W, C], clipped to [-1, 1]; the clean images' features are computed once."""
    variables = {"params": params}

    def features(x):
        return network.apply(variables, _coloured(jnp.clip(x, -1, 1)), method="features")

    reference = features(clean)
    return jax.lax.map(lambda x: network.apply(variables, features(x), reference, method="compare"), restored)
