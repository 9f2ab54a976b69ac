"""Whether a field learns, which its loss does not tell: its errors on a few held-out images during training.

The loss of a self-consistent field stays level, or rises, while the field improves: its targets move with the field.
The numbers here are those of the evaluation at the end, on fewer images, and they take forward passes only. They are
for people to watch: nothing in a run is chosen or stopped by them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.flow import residuals
from fmdp.flow.average_field import denoise
from fmdp.flow.interpolant import interpolate
from fmdp.metrics.distortion import mse
from fmdp.metrics.features import features
from fmdp.metrics.perception import variance_ratio
from fmdp.parallel import batching
from fmdp.training.noisy_images import images_at_once, with_fixed_noise
from fmdp.training.state import make_field, make_network
from fmdp.types import AverageField

NOISE_LEVELS = (0.3, 0.7)  # alpha = 1 - s
GROUP = "held_out/"  # begins the names of what is watched
SHOWN = tuple(f"{GROUP}{name}_alpha_{NOISE_LEVELS[-1]}" for name in ("mse_at_s", "mse_at_1"))  # beside the loss


class Watch:
    """Measures an average of the parameters on the first held-out images, with the same noise each time."""

    def __init__(self, config: ConfigDict, held_out: np.ndarray | None):
        """Watch the run of a configuration on held-out images [n, H, W, C]; without them nothing is watched."""
        self._config, self._every = config, config.train.watch_every if held_out is not None else 0
        self._images = np.empty(0) if held_out is None else held_out[: config.train.watch_images]

    def is_due(self, step: int) -> bool:
        """Whether to measure after this step."""
        return self._every > 0 and step % self._every == 0

    def measure(self, ema: Any) -> dict[str, float]:
        """What `measure` finds for the averaged network.

        Args:
          ema: the average of the network's parameters, over all devices of the run.
        """
        field = make_field(make_network(self._config), batching.replicate(ema))
        return measure(field, self._images, images_at_once(self._config))


def measure(field: AverageField, images: np.ndarray, size: int) -> dict[str, float]:
    """The errors of a field on clean images [n, H, W, C] with fixed noise, at each of NOISE_LEVELS; s = 1 - alpha.

    The arguments are those of `with_fixed_noise`.

    Returns:
      By names that end in `_alpha_<noise level>` and begin with GROUP, in the units of the evaluation: `mse_at_s` and
      `mse_at_1`, the MSE per pixel of D_{s,t} at t = s and at t = 1; `variance_ratio_at_1`, the total variance of
      D_{s,1} over that of the images; `semigroup_at_1`, the mean residual `residuals.semigroup` from s to 1 by way of
      (s + 1) / 2.
    """
    found = with_fixed_noise(_measure, field, images, size)
    scalars: dict[str, float] = {}
    for level, alpha in enumerate(NOISE_LEVELS):
        by_image = {name: values[level] for name, values in found.items()}
        restored, clean = (jnp.asarray(by_image.pop(name)) for name in ("restored", "clean"))
        numbers = {name: np.mean(values) for name, values in by_image.items()}
        numbers["variance_ratio_at_1"] = variance_ratio(restored, clean)
        scalars |= {f"{GROUP}{name}_alpha_{alpha}": float(value) for name, value in numbers.items()}
    return scalars


@jax.jit
def _measure(field: AverageField, rows: dict[str, Array]) -> dict[str, Array]:
    """The errors at each noise level and of each image, and both ends of the variance ratio as `features`."""
    image = rows["image"]

    def at(s):
        x, end = interpolate(rows["noise"], image, s), jnp.ones_like(s)
        restored = denoise(field, x, s, end)
        return {
            "mse_at_s": mse(denoise(field, x, s, s), image),
            "mse_at_1": mse(restored, image),
            "semigroup_at_1": residuals.semigroup(field, x, s, (s + 1) / 2, end),
            "restored": features(restored),
            "clean": features(image),
        }

    return jax.lax.map(at, 1 - jnp.asarray(NOISE_LEVELS, image.dtype))
