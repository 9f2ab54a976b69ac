"""Several averages of the parameters, and the choice of one on training images that are set aside.

How long the average should reach back is not known before the run (Karras et al., arXiv 2312.02696). The error by which
an average is chosen has the two parts that make a flow map denoiser, both mean squares per pixel: the MSE of D_{s,s},
and the distance of D_{s,1} from the end point of the flow along the field's own instantaneous velocity. Only the exact
field has the least of both. The MSE of D_{s,1} would not do: it is least for images that are too smooth.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from fmdp.flow.average_field import denoise, integrate
from fmdp.flow.interpolant import interpolate
from fmdp.metrics.distortion import mse
from fmdp.parallel import batching
from fmdp.training.noisy_images import images_at_once, with_fixed_noise
from fmdp.training.state import TrainState, make_field, make_network
from fmdp.types import AverageField

NOISE_LEVELS = (0.3, 0.5, 0.7)  # alpha = 1 - s
STEPS = 8  # of the flow from s to 1
CHOSEN = "ema_half_life"  # in the progress of a run: the chosen one
ERROR = "validation_error_of_"  # begins the name of each one's error there


def half_lives(config: ConfigDict) -> tuple[float, ...]:
    """The half-lives of all averages, in images, in the order of the state."""
    return (config.ema.half_life, *config.ema.more_half_lives)


def choose(config: ConfigDict, state: TrainState, images: np.ndarray) -> dict[str, float]:
    """The half-life of the average with the least `validation_error`, and the finite errors of all, for the progress.

    Args:
      state: over all devices of the run.
      images: [n, H, W, C], not trained on; without any there is nothing to choose by, and the result is empty.
    """
    if not len(images):
        return {}
    network, size = make_network(config), images_at_once(config)
    fields = (make_field(network, batching.replicate(ema)) for ema in (state.ema, *state.more_ema))
    errors = [validation_error(field, images, size) for field in fields]
    named = dict(zip(half_lives(config), errors, strict=True))
    finite = {half_life: error for half_life, error in named.items() if np.isfinite(error)}
    best = min(finite, key=finite.__getitem__, default=config.ema.half_life)
    return {CHOSEN: best} | {f"{ERROR}{half_life:.12g}": error for half_life, error in finite.items()}


def with_chosen(config: ConfigDict, state: TrainState, progress: dict[str, Any]) -> TrainState:
    """The state whose `ema` is the average that its progress says was chosen, or as it is if none was."""
    averages = dict(zip(half_lives(config), (state.ema, *state.more_ema), strict=True))
    chosen = averages.get(progress.get(CHOSEN, config.ema.half_life), state.ema)
    return dataclasses.replace(state, ema=chosen)


def validation_error(field: AverageField, images: np.ndarray, size: int) -> float:
    """The mean over images [n, H, W, C], and over NOISE_LEVELS, of the two parts described above.

    The arguments are those of `with_fixed_noise`.
    """
    return float(np.mean(with_fixed_noise(_errors, field, images, size)))


@jax.jit
def _errors(field: AverageField, rows: dict[str, Array]) -> Array:
    """The error at each noise level and of each image."""
    image = rows["image"]

    def at(s):
        x = interpolate(rows["noise"], image, s)
        end = denoise(field, x, s, jnp.ones_like(s))
        return mse(denoise(field, x, s, s), image) + mse(end, integrate(field, x, s, STEPS))

    return jax.lax.map(at, 1 - jnp.asarray(NOISE_LEVELS, image.dtype))
