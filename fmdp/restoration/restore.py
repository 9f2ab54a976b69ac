"""Restoring one image of any size, measured or degraded by us, at several lookaheads, with several samples."""

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fmdp.errors import InputError, ParameterError, translating
from fmdp.io.files import expand_path
from fmdp.io.levels import UNIT, as_numpy
from fmdp.operators import Operator
from fmdp.restoration.diagnose import diagnose
from fmdp.restoration.prepare import Note, Picture, prepare, request_with_range
from fmdp.restoration.request import Request
from fmdp.restoration.solve import solve
from fmdp.restoration.tiles import choose_tiles
from fmdp.types import SizedField

DENOISING = Request()


class Restored(NamedTuple):
    """One image restored, in [-1, 1], or a batch.

    Of a batch, every array has an axis [n, ...] in front, every fact is a list with one entry for each image, and the
    notes are those of all images.

    Attributes:
      images: [lookaheads, samples, H, W, C].
      measured: y, what they were restored from.
      clean: [H, W, C] where it is known.
      facts: what was found out or decided, as plain JSON (`diagnose`); of a picture file also its range.
      notes: what was changed or noticed; their texts are among the facts.
    """

    images: np.ndarray
    measured: np.ndarray
    clean: np.ndarray | None
    facts: dict[str, Any]
    notes: tuple[Note, ...] = ()

    def __repr__(self) -> str:
        """The shapes of the arrays, without their numbers, and the facts, which hold the notes."""
        arrays = {"images": self.images, "measured": self.measured, "clean": self.clean}
        shapes = ", ".join(f"{name}={x if x is None else f'array{x.shape}'}" for name, x in arrays.items())
        return f"Restored({shapes}, facts={self.facts})"


def restore(
    prior: SizedField, image: ArrayLike | str | os.PathLike | Picture, request: Request = DENOISING
) -> Restored:
    """An image, or each of a batch, restored by a prior, in overlapping tiles if it is larger (`choose_tiles`).

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
      image: the path of a picture file, or what `picture_files.read_picture` returns of it; the file tells its range.
        Or an array [H, W, 1 or 3] or, in gray, [H, W]: bytes, numbers in [-1, 1], or numbers in `request.range`. It is
        the measurement, unless `request.degraded` is False. Or a batch [n, ...] of arrays, of one range, where each
        becomes what it would alone, with the same seed, by the same compiled program.
      request: what to do; by default the image is denoised, and its noise is estimated.

    Raises:
      InputError: the file cannot be read, the request cannot be met for this image, plug-and-play diverges, or the call
        is inside `jax.jit`, `jax.vmap` or `jax.grad`.
    """
    _refuse_tracing(prior, image, request)
    if isinstance(image, str | os.PathLike):
        image = _read(image, request)
    if isinstance(image, Picture):
        restored = restore(prior, image.pixels, dataclasses.replace(request, range=UNIT))
        notes = image.notes + restored.notes
        about = {"range": list(image.range), "notes": [note.text for note in notes]}
        return restored._replace(notes=notes, facts=restored.facts | about)
    own = request.operator if isinstance(request.operator, Operator) and request.degraded else None
    image = as_numpy(image)
    if image.ndim == 4 if own is None else image.shape[1:] == own.output_shape:
        return _restore_batch(prior, image, request)
    tiles = choose_tiles(prior, request)
    prepared = prepare(image, request, tiles)
    solution = solve(prior, prepared, request, tiles)
    facts = diagnose(prepared, solution, request, tiles)
    return Restored(np.asarray(solution.images), np.asarray(prepared.measured), prepared.clean, facts, prepared.notes)


def _read(path: str | os.PathLike, request: Request) -> Picture:
    """The picture in a file. Pillow, which reads it, is imported here: restoring arrays needs none of it."""
    from fmdp.data.unusable import UnusableError
    from fmdp.restoration.picture_files import read_requested

    where = f"fmdp.restore(image={str(path)[:100]!r})"
    try:
        with translating(lambda why: f"{where}: {why}: name a picture file", OSError):
            return read_requested(expand_path(path), request)
    except UnusableError as error:
        raise InputError(f"{where}: {error}") from error
    except ParameterError as error:
        raise request.error(error.parameter, f"{path}: {error.remedy}") from error


def _restore_batch(prior: SizedField, images: np.ndarray, request: Request) -> Restored:
    if not images.size:
        raise InputError(f"a batch of shape {images.shape} holds no images: give at least one")
    shared: list[Note] = []
    if not (isinstance(request.operator, Operator) and request.degraded):
        request = request_with_range(images, request, shared)
    each = [restore(prior, image, request) for image in images]
    clean = None if each[0].clean is None else np.stack([one.clean for one in each if one.clean is not None])
    facts = {name: [one.facts[name] for one in each] for name in each[0].facts}
    facts["notes"] = [[note.text for note in shared] + texts for texts in facts["notes"]]
    notes = tuple(dict.fromkeys([*shared, *(note for one in each for note in one.notes)]))
    return Restored(
        np.stack([one.images for one in each]), np.stack([one.measured for one in each]), clean, facts, notes
    )


def _refuse_tracing(prior: SizedField, image: Any, request: Request) -> None:
    """Raises InputError inside a transformation, where images have no values to look at."""
    given = jax.tree.leaves((prior, image, request.operator, request.parameters, jnp.zeros(())))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in given):
        remedy = (
            "call it outside, also with a batch [n, H, W, C], or call fmdp.denoise or a solver of fmdp.solvers.make"
        )
        raise InputError(f"fmdp.restore does not work inside jit, vmap or grad: {remedy}")
