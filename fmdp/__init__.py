"""Flow map denoisers: one trained network, the whole distortion-perception plane.

>>> import jax, fmdp
>>> prior = fmdp.load("fashion_mnist")
>>> prior.image_shape
(28, 28, 1)
>>> noisy = jax.random.normal(jax.random.key(0), (3, 28, 28, 1))  # at time s = 0 there is noise alone
>>> fmdp.denoise(prior, noisy, 0.0, 1.0).shape  # and at lookahead t = 1 a picture of it in one step
(3, 28, 28, 1)

`fmdp.restore` restores one picture of any size as a `fmdp.Request` says; `fmdp.operators` are what degrades pictures,
and `fmdp.frontier` the best that any denoiser could do. `fmdp.run` trains and measures what a configuration describes.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmdp.cli.run import run as run
    from fmdp.flow.average_field import denoise as denoise
    from fmdp.pretrained.prior import Prior as Prior
    from fmdp.pretrained.prior import load as load
    from fmdp.restoration.request import Request as Request
    from fmdp.restoration.restore import restore as restore

_HOMES = {
    "Prior": "pretrained.prior",
    "Request": "restoration.restore",
    "denoise": "flow.average_field",
    "frontier": "exact",
    "load": "pretrained.prior",
    "operators": "",
    "run": "cli.run",
    "restore": "restoration.restore",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for: what needs only one of them loads quickly."""
    if name == "__version__":
        return importlib.metadata.version("fmdp")
    if name not in _HOMES:
        raise AttributeError(f"module 'fmdp' has no attribute {name!r}: it has {', '.join(_HOMES)}")
    home = f"fmdp.{_HOMES[name]}".rstrip(".")
    if name in ("frontier", "operators"):
        return importlib.import_module(f"{home}.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
