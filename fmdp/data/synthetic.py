"""Known distributions as sources of images, with exact fields to compare learned ones with."""

from collections.abc import Callable

import jax
import numpy as np
import scipy.fft
from ml_collections import ConfigDict

from fmdp.data.sklearn_digits import digits
from fmdp.data.splits import Split, split
from fmdp.errors import InputError
from fmdp.exact import Gaussian, GaussianMixture

DRAWING_SEED = 0xDA7A  # unlike usual seeds of runs, whose noise must not repeat that of the data


def draw_split(config: ConfigDict) -> Split:
    """config.samples and config.test_samples images drawn from the distribution that config.source names."""
    target = TARGETS[config.source](config)
    train_key, test_key = jax.random.split(jax.random.key(DRAWING_SEED))
    evenly = {"stratified": True} if isinstance(target, GaussianMixture) else {}
    train = target.sample(train_key, config.samples, **evenly)
    test = target.sample(test_key, config.test_samples, **evenly)
    labels = np.zeros(len(train), int), np.zeros(len(test), int)
    return Split(np.asarray(train), np.asarray(test), *labels, "drawn from the target", target)


def gaussian(config: ConfigDict) -> Gaussian:
    """A Gaussian over 8x8 images with mean variance 1/4 and the spectrum config.spectrum.

    `power_law` gives the k-th cosine wave, ordered by frequency, a variance proportional to 1/k; `isotropic` gives all
    waves the same variance.

    Raises:
      InputError: the spectrum is unknown.
    """
    side, variance = 8, 0.25
    mean = np.zeros((side, side, 1))
    if config.spectrum == "isotropic":
        return Gaussian(mean, variance)
    if config.spectrum != "power_law":
        raise InputError(f"config.data.spectrum = {config.spectrum!r}: must be one of isotropic, power_law")
    waves = scipy.fft.idct(np.eye(side), axis=0, norm="ortho")
    basis = np.kron(waves, waves)
    order = np.argsort(np.add.outer(np.arange(side) ** 2, np.arange(side) ** 2).ravel(), kind="stable")
    spectrum = np.empty(side**2)
    spectrum[order] = 1 / np.arange(1, side**2 + 1)
    return Gaussian(mean, basis * (variance * spectrum / spectrum.mean()) @ basis.T)


def mixture(config: ConfigDict) -> GaussianMixture:
    """Two Gaussians in the plane with standard deviation 0.35 around (4.5, 3.5) and (3.5, 5.5)."""
    return GaussianMixture(
        np.ones(2), np.array([[4.5, 3.5], [3.5, 5.5]]), np.tile(0.35**2 * np.eye(2), (2, 1, 1)), (1, 1, 2)
    )


def digits_model(config: ConfigDict) -> GaussianMixture:
    """The mixture of config.components Gaussians fitted to the training digits."""
    return GaussianMixture.fit(split(*digits(), config.test_share).train[:], config.components)


TARGETS: dict[str, Callable[[ConfigDict], Gaussian | GaussianMixture]] = {
    "gaussian": gaussian,
    "mixture": mixture,
    "digits_model": digits_model,
}
"""The sources that are known distributions."""
