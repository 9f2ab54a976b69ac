"""What is known about a restoration: its noise level, its error, its residual, its tiles, notes."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fmdp.flow.interpolant import time_of_sigma
from fmdp.metrics.distortion import psnr
from fmdp.operators.inpainting import Inpainting
from fmdp.restoration.prepare import Prepared
from fmdp.restoration.request import GRAY_LEVELS, Request
from fmdp.restoration.solve import Solution
from fmdp.restoration.tiles import Tiles


def diagnose(prepared: Prepared, solution: Solution, request: Request, tiles: Tiles) -> dict[str, Any]:
    """The facts about a restoration, as plain JSON.

    Returns:
      sigma, sigma_255, sigma_estimated: the noise, on the [-1, 1] scale and in levels of 255, where it was asked for;
        s: its time, where the image is denoised.
      evaluations: of the field; data_residual: [lookaheads, samples], the root mean square of y - H(x) at the end.
      hidden: the share of the pixels that the mask hides, where there is one.
      tiles, tile: how many tiles, and their shape (H, W, C); margin: half of their overlap, where it is not half a
        tile.
      psnr: [lookaheads] in dB, of the mean of the samples, where the clean image is known; psnr_of_samples:
        [lookaheads, samples], where there are several.
      notes: the texts of the notes.
    """
    facts: dict[str, Any] = {"sigma_estimated": prepared.sigma_estimated, "evaluations": solution.evaluations}
    if request.denoises or not request.degraded:
        facts["sigma"], facts["sigma_255"] = prepared.sigma, prepared.sigma * GRAY_LEVELS
    if request.denoises:
        facts["s"] = float(time_of_sigma(prepared.sigma))
    if solution.residual is not None:
        facts["data_residual"] = np.asarray(solution.residual).tolist()
    if isinstance(prepared.operator, Inpainting):
        facts["hidden"] = prepared.operator.hidden_share
    facts |= {"tiles": tiles.count(prepared.canvas), "tile": list(tiles.shape)}
    if tiles.margin is not None:
        facts["margin"] = tiles.margin
    if prepared.clean is not None:
        clean = jnp.asarray(prepared.clean)
        facts["psnr"] = psnr(jnp.clip(solution.images.mean(1), -1, 1), clean).tolist()
        if request.num_samples > 1:
            facts["psnr_of_samples"] = psnr(jnp.clip(solution.images, -1, 1), clean).tolist()
    return facts | {"notes": [note.text for note in prepared.notes]}
