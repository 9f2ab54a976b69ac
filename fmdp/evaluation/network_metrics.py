"""The measures of an evaluation that need published networks: distances between images, and between sets of them."""

from dataclasses import dataclass, field
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
from fmdp.metrics.backbones import MIN_SIDE, Backbone, ImageDistance, as_saved
from fmdp.metrics.generative import FID_IMAGES, Manifold, Moments
from fmdp.metrics.perception import NullInterval
from fmdp.metrics.weights import AUTO, NETWORKS, Weights

REAL_IMAGES = 50_000  # largest number of training images that represent the real ones
DEALINGS = 20  # random divisions of the real images into two sets, from which each floor is computed


class Features(NamedTuple):
    """What the measures on the features of a network are called.

    Attributes:
      prefix: of their names in the results. Only Inception's need none: KID and FID are defined on them.
      frechet: the key of the Fréchet distance.
      title: of that distance, in a message.
      least: images on either side from which it is computed: as many as there are features.
    """

    prefix: str
    frechet: str
    title: str
    least: int


FEATURES = {
    "inception": Features("", "fid", "FID", FID_IMAGES),
    "vgg16": Features("vgg16_", "vgg16_frechet", "the Fréchet distance on VGG16", 512),
}
"""By the names of the networks."""


class Real(NamedTuple):
    """Real images as a network sees them: features [m, d], and what precision and the Fréchet distance need of them."""

    features: Array
    support: Manifold
    moments: Moments

    @classmethod
    def of(cls, features: Array) -> "Real":
        return cls(features, generative.manifold(features), generative.moments(features))


@dataclass(frozen=True, kw_only=True)
class NetworkMetrics:
    """The measures whose weights were found. Without any weights it measures nothing.

    All networks take images as an 8-bit file would give them back, see `backbones.as_saved`.

    Attributes:
      weights: by name, of NETWORKS.
      real: the real images to compare with, by the names of FEATURES for which there are weights.
      real_labels: their classes [m]; None if there are none.
      small_fid: whether to compute Fréchet distances of fewer images than features, too.
      batch_size: how many images a network processes at once.
    """

    weights: dict[str, Weights]
    real: dict[str, Real] = field(default_factory=dict)
    real_labels: np.ndarray | None = None
    small_fid: bool = False
    batch_size: int = 1

    def per_image(self, restored: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
        """LPIPS and DISTS [..., n] of restorations [..., n, H, W, C] of clean images [n, H, W, C], by network."""
        *batch, n = restored.shape[:-3]
        flat = restored.reshape(-1, *restored.shape[-4:])
        measures = {}
        for name, (network, params, _) in self.weights.items():
            if isinstance(network, ImageDistance):
                parts = [slice(start, start + self.batch_size) for start in range(0, n, self.batch_size)]
                distances = [image_distances(network, params, flat[:, part], clean[part]) for part in parts]
                measures[name] = np.concatenate(jax.device_get(distances), -1).reshape(*batch, n)
        return measures

    def per_set(self, restored: np.ndarray) -> dict[str, np.ndarray]:
        """The distances [k] of sets of restorations [k, n, H, W, C] from the real images."""
        every = np.arange(restored.shape[1])
        measures: dict[str, np.ndarray] = {}
        for name, real in self.real.items():
            sets = (_features(self.weights[name], images, every, self.batch_size) for images in restored)
            rows = [self._distances(name, x, real) for x in sets]
            measures |= {measure: np.array([row[measure] for row in rows]) for measure in rows[0]}
        return measures

    def floors(self, images: np.ndarray, labels: np.ndarray) -> dict[str, NullInterval]:
        """The interval of each distance between two sets of real images, see `perception.null_interval`.

        The test images and the real ones are repeatedly redistributed at random, class by class, as in the split.
        """
        intervals: dict[str, NullInterval] = {}
        for name, real in self.real.items():
            test = _features(self.weights[name], images, np.arange(len(images)), self.batch_size)
            vectors = jnp.concatenate([test, real.features])
            strata = np.concatenate([labels, np.asarray(self.real_labels)])
            rows = []
            for key in jax.random.split(jax.random.key(1), DEALINGS):
                dealt = vectors[perception.deal(key, strata)]
                rows.append(self._distances(name, dealt[: len(test)], Real.of(dealt[len(test) :])))
            for measure in rows[0]:
                if not measure.endswith("kid_subset_std"):
                    intervals[measure] = perception.interval_of(np.array([row[measure] for row in rows]))
        return intervals

    def _distances(self, name: str, x: Array, real: Real) -> dict[str, float]:
        prefix, frechet, _, least = FEATURES[name]
        distance, deviation = generative.kid(jax.random.key(0), x, real.features)
        measures = {
            f"{prefix}kid": distance,
            f"{prefix}kid_subset_std": deviation,
            f"{prefix}precision": float(generative.covered(x, real.support)),
            f"{prefix}recall": float(generative.covered(real.features, generative.manifold(x))),
        }
        if self.small_fid or min(len(x), real.moments.images) >= least:
            measures[frechet] = generative.frechet(generative.moments(x), real.moments)
        return measures


NO_NETWORKS = NetworkMetrics(weights={})
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
    chosen = np.random.default_rng(0).permutation(len(split.train))[:REAL_IMAGES]
    real = {}
    for name, (prefix, _, title, least) in FEATURES.items():
        if name not in found:
            continue
        real[name] = Real.of(_features(found[name], split.train, chosen, config.batch_size))
        if min(len(chosen), len(split.test)) < least and not config.small_fid:
            remedy = f"read {prefix}kid, or set config.evaluate.small_fid"
            absent.append(f"{title} needs {least} images on either side ({remedy})")
    if absent:
        print(f"not measured: {'; '.join(absent)}; weights are looked for in {weights.cache_folder()}", flush=True)
    labels = split.train_labels[chosen] if real else None
    sizes = {"small_fid": config.small_fid, "batch_size": config.batch_size}
    return NetworkMetrics(weights=found, real=real, real_labels=labels, **sizes)


def _features(of: Weights, images, chosen: np.ndarray, batch_size: int) -> Array:
    """The features [n, d] of the n chosen images of a set, which is read a batch at a time."""
    size = min(batch_size, len(chosen))
    parts = []
    for start in range(0, len(chosen), size):
        part = images[chosen[start : start + size]]
        padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
        parts.append(_image_features(of.network, of.params, padded)[: len(part)])
    return jnp.concatenate(parts)


def _unsuited(name: str, shape: tuple[int, ...]) -> str:
    """What images a network needs instead of those of this shape; "" if they suit it."""
    height, width, colours = shape
    if colours not in (1, 3):
        return f"images of 1 or 3 channels, not {colours}"
    network = weights.SOURCES[name].network
    least = MIN_SIDE[network.backbone] if isinstance(network, Backbone) else 1
    return f"images of {least} pixels a side, not {height}x{width}" if min(height, width) < least else ""


def _coloured(images: Array) -> Array:
    return jnp.broadcast_to(images, (*images.shape[:-1], 3))


@partial(jax.jit, static_argnums=0)
def _image_features(network, params: dict, images: Array) -> Array:
    return network.apply({"params": params}, _coloured(as_saved(images)))


@partial(jax.jit, static_argnums=0)
def image_distances(network: ImageDistance, params: dict, restored: Array, clean: Array) -> Array:
    """The LPIPS or DISTS [k, n] of restorations [k, n, H, W, C] of clean images [n, H, W, C], both `as_saved`.

    C is 1 or 3; gray images are given to the network as three equal channels. The clean images are processed once.

    Raises:
      InputError: the images are smaller than the network allows.
    """
    variables = {"params": params}

    def features(x):
        return network.apply(variables, _coloured(as_saved(x)), method="features")

    reference = features(clean)
    return jax.lax.map(lambda x: network.apply(variables, features(x), reference, method="compare"), restored)
