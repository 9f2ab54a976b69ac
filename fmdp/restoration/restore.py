"""Restoring one image of any size, measured or degraded by us, at several lookaheads, with several samples."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from fmdp.restoration.diagnose import diagnose
from fmdp.restoration.prepare import Note, prepare
from fmdp.restoration.request import Request
from fmdp.restoration.solve import solve
from fmdp.restoration.tiles import choose_tiles
from fmdp.types import SizedField

DENOISING = Request()


class Restored(NamedTuple):
    """One image restored, in [-1, 1].

    Attributes:
      images: [lookaheads, samples, H, W, C].
      measured: y, what they were restored from.
      clean: [H, W, C] where it is known.
      facts: what was found out or decided, as plain JSON (`diagnose`).
      notes: what was changed or noticed; their texts are among the facts.
    """

    images: np.ndarray
    measured: np.ndarray
    clean: np.ndarray | None
    facts: dict[str, Any]
    notes: tuple[Note, ...] = ()


def restore(prior: SizedField, image: ArrayLike, request: Request = DENOISING) -> Restored:
    """One image restored by a prior, in overlapping tiles where it is larger than they are (`choose_tiles`).

    A gray prior takes the luma of a colour image; a colour prior takes a gray image in all three channels. An image
    whose sides the operator's factor does not divide loses its last rows or columns.

    >>> import fmdp, jax
    >>> prior = fmdp.load("fashion_mnist")
    >>> image = jax.random.uniform(jax.random.key(0), (28, 40, 1), minval=-1)
    >>> request = fmdp.Request(operator="box_inpainting", parameters={"size": 9}, lookaheads=(0.0, 1.0), steps=2)
    >>> restored = fmdp.restore(prior, image, request)
    >>> restored.images.shape, restored.facts["tiles"]  # (lookaheads, samples, height, width, channels)
    ((2, 1, 28, 40, 1), 2)

    Args:
      prior: from `fmdp.load`, or another pytree that is a field and has an `image_shape`.
      image: [H, W, 1 or 3] or, in gray, [H, W], such as `image_files.read_image` returns: bytes, numbers in [-1, 1], or
        numbers in `request.range`. It is the measurement, unless `request.degraded` is False.
      request: what to do; by default the image is denoised, and its noise is estimated.

    Raises:
      InputError: the request cannot be met for this image, or plug-and-play diverges.
    """
    tiles = choose_tiles(prior, request)
    prepared = prepare(image, request, tiles)
    solution = solve(prior, prepared, request, tiles)
    facts = diagnose(prepared, solution, request, tiles)
    return Restored(np.asarray(solution.images), np.asarray(prepared.measured), prepared.clean, facts, prepared.notes)
