"""Other denoisers that run under the same code: their pictures, noise and measures are those of the prior.

They are told the noise level, as the prior is.
"""

import importlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fmdp.errors import reason, require_known
from fmdp.io.packages import installed_version


class Rival(NamedTuple):
    """A denoiser of another package.

    Attributes:
      denoise: (a noisy picture [H, W, 1 or 3] on the scale [0, 1], which noise exceeds; sigma) to the estimate,
        [H, W] or with a last axis.
      module: that it is imported from.
      package: the distribution that installs the module.
      title: its name in tables.
      settings: what it is run with.
      terms: of its use, where they are narrower than those of free software.
    """

    denoise: Callable[[np.ndarray, float], np.ndarray]
    module: str
    package: str
    title: str
    settings: str
    terms: str = ""


def _nl_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.restoration import denoise_nl_means

    sizes = {"patch_size": 5, "patch_distance": 6}
    return denoise_nl_means(noisy, h=0.6 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1, **sizes)


def _wavelets(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.restoration import denoise_wavelet

    colour = noisy.shape[-1] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small pictures, which have fewer levels than it would like
        return denoise_wavelet(
            noisy if colour else noisy[..., 0],
            sigma=sigma,
            wavelet="sym8",
            wavelet_levels=3,
            method="BayesShrink",
            mode="soft",
            convert2ycbcr=colour,
            channel_axis=-1 if colour else None,
            rescale_sigma=True,
        )


def _bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
    import bm3d

    if noisy.shape[-1] == 3:
        return bm3d.bm3d_rgb(noisy, sigma)
    return bm3d.bm3d(noisy[..., 0], sigma)


RIVALS = {
    "nl_means": Rival(
        _nl_means,
        "skimage",
        "scikit-image",
        "non-local means",
        "fast, patches of 5 pixels within 6 pixels, h = .6 sigma",
    ),
    "wavelets": Rival(
        _wavelets,
        "skimage",
        "scikit-image",
        "wavelets",
        "sym8, 3 levels, BayesShrink, soft thresholds, in YCbCr, one pass",
    ),
    "bm3d": Rival(_bm3d, "bm3d", "bm3d", "BM3D", "profile np, colour as CBM3D", "for non-commercial use only"),
}


def find_rivals(names: str) -> tuple[dict[str, Rival], list[str]]:
    """The rivals of these names, separated by commas, that can run here, and a line about each that cannot.

    Raises:
      InputError: a name that is not in `RIVALS`.
    """
    found, absent = {}, []
    for name in [name for name in names.split(",") if name]:
        require_known("config.benchmark.rivals: unknown denoiser", name, RIVALS)
        rival = RIVALS[name]
        try:
            importlib.import_module(rival.module)
        except ImportError as error:
            why = f"{rival.title} is left out: {reason(error)}"
            terms = f", {rival.terms}" if rival.terms else ""
            absent.append(f"{why} (pip install {rival.package}{terms})")
        else:
            found[name] = rival
    return found, absent


def describe_rival(rival: Rival) -> str:
    """What it is run with, and the version of its package."""
    return f"{rival.settings} ({rival.package} {installed_version(rival.package)})"


def run_rival(rival: Rival, noisy: np.ndarray, sigma: float) -> np.ndarray:
    """The estimate [H, W, C] in [-1, 1] of a picture with noise of standard deviation sigma on that scale."""
    estimate = rival.denoise((noisy.astype(np.float64) + 1) / 2, sigma / 2)
    return (2 * np.reshape(estimate, noisy.shape) - 1).astype(np.float32)
