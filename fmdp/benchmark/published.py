"""Published PSNR of denoisers on three sets of test pictures, in colour.

The numbers are those that the papers of FFDNet, DRUNet and SwinIR tabulate, also for older methods. The protocol is
one: noise is not clipped, PSNR is averaged over the whole set, and estimates are rounded to eight bits.
"""

from typing import NamedTuple

SIGMAS = (15, 25, 50)


class Method(NamedTuple):
    """A published denoiser: the paper that it is from, and its PSNR in dB at `SIGMAS` by the name of the set."""

    source: str
    psnr: dict[str, tuple[float, float, float]]


PUBLISHED = {
    "CBM3D": Method(
        "Dabov et al., ICIP 2007",
        {"cbsd68": (33.52, 30.71, 27.38), "kodak24": (34.28, 31.68, 28.46), "mcmaster18": (34.06, 31.66, 28.51)},
    ),
    "DnCNN": Method(
        "Zhang et al., arXiv 1608.03981",
        {"cbsd68": (33.90, 31.24, 27.95), "kodak24": (34.60, 32.14, 28.95), "mcmaster18": (33.45, 31.52, 28.62)},
    ),
    "FFDNet": Method(
        "Zhang et al., arXiv 1710.04026",
        {"cbsd68": (33.87, 31.21, 27.96), "kodak24": (34.63, 32.13, 28.98), "mcmaster18": (34.66, 32.35, 29.18)},
    ),
    "DRUNet": Method(
        "Zhang et al., arXiv 2008.13751",
        {"cbsd68": (34.30, 31.69, 28.51), "kodak24": (35.31, 32.89, 29.86), "mcmaster18": (35.40, 33.14, 30.08)},
    ),
    "SwinIR": Method(
        "Liang et al., arXiv 2108.10257",
        {"cbsd68": (34.42, 31.78, 28.56), "kodak24": (35.34, 32.89, 29.79), "mcmaster18": (35.61, 33.20, 30.22)},
    ),
}
PICTURES = {"cbsd68": 68, "kodak24": 24, "mcmaster18": 18}
"""How many pictures each set has. Those of Kodak24 and McMaster18 are 500x500."""


def published_psnr(dataset: str, sigma: int | float) -> dict[str, float]:
    """The published PSNR by method; empty for another set or noise level. Upper and lower case count as the same."""
    if sigma not in SIGMAS or dataset.lower() not in PICTURES:
        return {}
    level = SIGMAS.index(int(sigma))
    return {name: method.psnr[dataset.lower()][level] for name, method in PUBLISHED.items()}
