"""The measures of restorations: distortion per image, perception against real images, and its null interval."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial

from fmdp.data import Split
from fmdp.evaluation.network_metrics import NetworkMetrics
from fmdp.metrics import distortion, perception
from fmdp.metrics.features import features
from fmdp.metrics.perception import NullInterval
from fmdp.types import PRNGKey

MAX_SET_SIZE = 1500  # images on either side of a perception measure; its cost grows with their square


@jax.jit
def _perception(restored: Array, real_features: Array, clean_features: Array, width: Array) -> dict[str, Array]:
    """The perception measures of one set of restorations [n, H, W, C]."""
    x = features(restored)
    return {
        "variance_ratio": perception.variance_ratio(x, clean_features),
        "kernel_distance": perception.kernel_distance(x, real_features, width),
        "frechet_distance": perception.frechet_distance(x, real_features),
    }


@jax.jit
def measure_distortion(restored: Array, clean: Array) -> dict[str, Array]:
    """Distortion measures of [..., n, H, W, C] restorations, [..., n] each."""
    return {name: getattr(distortion, name)(restored, clean) for name in ("mse", "psnr", "ssim")}


def measure_restorations(
    restored: np.ndarray, clean: Array, real: np.ndarray, width: Array, networks: NetworkMetrics
) -> list[dict[str, float]]:
    """The measures of restorations [points, draws, n, H, W, C] of clean images [n, H, W, C], a `summary` per point."""
    by_image = measure_images(restored, clean, networks)
    by_set = measure_sets(restored, clean, real, width, networks)
    return [
        summary({name: x[point] for name, x in by_image.items()}, {name: x[point] for name, x in by_set.items()})
        for point in range(len(restored))
    ]


def measure_images(restored: np.ndarray, clean: Array, networks: NetworkMetrics) -> dict[str, np.ndarray]:
    """The distortion measures and learned distances [points, draws, n] of restorations [points, draws, n, H, W, C]."""
    by_point = [jax.device_get(measure_distortion(x, clean)) for x in restored]  # one at a time to save memory
    by_image = {name: np.stack([row[name] for row in by_point]) for name in by_point[0]}
    return by_image | networks.per_image(restored, np.asarray(clean))


def measure_sets(
    restored: np.ndarray, clean: Array, real: np.ndarray, width: Array, networks: NetworkMetrics
) -> dict[str, np.ndarray]:
    """The perception measures [points, draws] of restorations [points, draws, n, H, W, C]."""
    points, draws, n = restored.shape[:3]
    sets, few = restored.reshape(-1, *restored.shape[2:]), min(n, MAX_SET_SIZE)
    references = features(jnp.asarray(real)), features(jnp.asarray(clean[:few]))
    rows = [jax.device_get(_perception(x[:few], *references, width)) for x in sets]  # one at a time to save memory
    by_set = {name: np.stack([row[name] for row in rows]) for name in rows[0]} | networks.per_set(sets)
    return {name: x.reshape(points, draws) for name, x in by_set.items()}


def summary(by_image: dict[str, np.ndarray], by_set: dict[str, np.ndarray]) -> dict[str, float]:
    """Measures of images [draws, n] and of sets of them [draws] as numbers, by name.

    Of a measure of images these are its mean, its standard deviation over images (`_std`), and the standard deviation
    of the mean over the draws of the noise (`_draw_std`). A perception measure compares sets of images, so it has only
    its mean and `_draw_std`.
    """
    row: dict[str, float] = {}
    for name, x in by_image.items():
        row[name] = float(x.mean())
        row[f"{name}_std"] = float(x.mean(0).std())
        row[f"{name}_draw_std"] = float(x.mean(1).std())
    for name, x in by_set.items():
        row[name], row[f"{name}_draw_std"] = float(x.mean()), float(x.std())
    return row


def null_intervals(split: Split, width: Array, resamplings: int, key: PRNGKey) -> dict[str, NullInterval]:
    """The interval of each perception measure between two sets of real images.

    The test and training images of the split are repeatedly redistributed at random into two sets, class by class, as
    in the split itself.
    """
    real, labels = reference_images(split)
    test = split.test[:MAX_SET_SIZE]
    vectors = features(jnp.asarray(np.concatenate([test, real])))
    strata = np.concatenate([split.test_labels[: len(test)], labels])
    measures = {
        "kernel_distance": Partial(perception.kernel_distance, width=width),
        "frechet_distance": perception.frechet_distance,
        "variance_ratio": perception.variance_ratio,
    }
    return {
        name: perception.null_interval(measure, key, vectors, strata, len(test), resamplings)
        for name, measure in measures.items()
    }


def reference_images(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The training images that serve as the real images of the perception measures, and their classes."""
    chosen = np.random.default_rng(0).permutation(len(split.train))[:MAX_SET_SIZE]
    return split.train[chosen], split.train_labels[chosen]
