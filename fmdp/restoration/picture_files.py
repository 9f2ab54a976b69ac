"""Any picture file that fmdp restores, at its full depth, and which of its numbers were taken as black and white."""

import contextlib
import dataclasses
import os
import pathlib
from io import BufferedIOBase
from typing import BinaryIO, cast

import numpy as np

from fmdp.data import deep_pictures
from fmdp.data.color_profiles import deep_profile
from fmdp.data.decoding import SUFFIXES, ImagePreprocessor, open_file, read_header
from fmdp.data.optional_formats import (
    OPTIONAL,
    TIFF,
    TIFF_PREFIXES,
    Numbers,
    read_optional,
    require_not_converted,
)
from fmdp.data.unusable import UnusableError, damage_as_unusable
from fmdp.errors import InputError
from fmdp.io.archives import MAX_PIXELS, load_npy
from fmdp.io.files import expand_path
from fmdp.io.levels import BYTES, MAX_ABS_VALUE, UNIT, Range, find_range, layout_remedy, require_numbers, to_unit
from fmdp.restoration.prepare import Note, Picture
from fmdp.restoration.request import Request

PREPROCESSOR = ImagePreprocessor(size=1, channels=3, max_pixels=MAX_PIXELS, warns=False)
HEADERS = dataclasses.replace(PREPROCESSOR, range=UNIT)  # lets numbers of any range pass
MAX_ABS_IN_FILE = 2.0  # of floating-point numbers that are taken to be in [-1, 1], noise included
NPY = b"\x93NUMPY"
RESTORABLE = frozenset({*SUFFIXES, ".npy", *OPTIONAL})
"""The suffixes by which pictures to restore are found in a folder."""


def read_picture(path: str | os.PathLike, stated: Range | None = None) -> Picture:
    """A picture file at its full depth, upright, in sRGB, with transparency composited on white.

    Of several pages, frames or planes the first is used, and a note says so.

    Args:
      stated: the values of black and white in files of more than 8 bits and in .npy; otherwise they are estimated
        (`levels.find_range`).

    Raises:
      UnusableError: it is not a picture, too large or damaged; where its range must be stated, `parameter` is "range".
      OSError: it cannot be read.
    """
    path = expand_path(path)
    require_not_converted(path)
    with open_file(path) as file:
        found = read_numbers(path, file)
    values, notes = first_plane(found.values)
    if found.pages > 1:
        notes.insert(0, Note(f"the first of {found.pages} pages is used"))
    in_bytes = found.range == BYTES
    if in_bytes and stated not in (None, BYTES):
        text = f"a picture of 8 bits: black is taken as 0 and white as 255, not {list(stated or ())}"
        notes.append(Note(text, "range"))
    try:
        require_numbers(values)
    except InputError as error:
        raise UnusableError(str(error)) from error
    try:
        stated = found.range if in_bytes else stated or found.range
        taken = find_range(values, stated, MAX_ABS_IN_FILE, in_file=True)
    except InputError as error:
        raise UnusableError(str(error), "range") from error
    pixels = to_unit(values, taken.range)
    if np.abs(pixels).max() > MAX_ABS_VALUE:
        limits = f"{values.min():.6g} to {values.max():.6g}"
        raise UnusableError(f"values from {limits} are far from black and white at {list(taken.range)}", "range")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    gray = pixels.shape[-1] == 1 or (pixels == pixels[..., :1]).all()
    notes += [Note(text, about) for text, about in ((found.note, ""), (taken.said, "range")) if text]
    return Picture(pixels[..., :1] if gray else pixels, taken.range, tuple(notes), found.profile)


def read_requested(path: pathlib.Path, request: Request) -> Picture:
    """The picture, with the range that a request states.

    Raises:
      ParameterError: its range must be stated; names the parameter of the request.
      UnusableError, OSError: as for `read_picture`.
    """
    try:
        return read_picture(path, request.range)
    except UnusableError as error:
        if error.parameter != "range":
            raise
        raise request.error("range", str(error)) from error


def read_kernel(path: pathlib.Path) -> np.ndarray:
    """A kernel or a PSF, [H, W]: the numbers of an .npy file as they are, or a gray picture divided by its sum.

    Raises:
      UnusableError, OSError: as for `read_picture`, or a picture is black or in colour.
    """
    levels = read_plane(path)
    with open_file(path) as file:
        if file.read(len(NPY)) == NPY:
            return levels
    if not (total := levels.sum()) > 0:
        raise UnusableError("it is black: paint the kernel in levels of gray, or save it as .npy")
    return levels / total


def read_plane(path: pathlib.Path) -> np.ndarray:
    """A mask or a kernel, [H, W]: the numbers of an .npy file as they are, or a picture from 0 (black) to 1 (white).

    Raises:
      UnusableError, OSError: as for `read_picture`, or a picture is in colour.
    """
    with open_file(path) as file:
        if file.read(len(NPY)) != NPY:
            pixels = read_picture(path).pixels
            if pixels.shape[-1] != 1:
                raise UnusableError("it is in colour: save it in gray")
            return (pixels[..., 0] + 1) / 2
        values = _read_npy(file)
    try:
        require_numbers(values)
    except InputError as error:
        raise UnusableError(str(error)) from error
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise UnusableError(f"it has shape {values.shape}: save [height, width]")
    return values.astype(np.float32)


def read_numbers(path: pathlib.Path, file: BufferedIOBase) -> Numbers:
    """The numbers in an opened file as its format has them; those of 8 bits are upright, opaque and in sRGB.

    Raises:
      UnusableError: it is not a picture, too large or damaged.
    """
    if form := OPTIONAL.get(path.suffix.lower()):
        return read_optional(form, file)
    prefix = file.read(len(NPY))
    if prefix == NPY:
        return Numbers(_read_npy(file))
    try:
        file.seek(0)
        HEADERS.check(file)
    except UnusableError:
        if prefix[:4] not in TIFF_PREFIXES:
            raise
        return read_optional(TIFF, file)
    pages = 1
    with contextlib.suppress(Exception):  # damage behind the first page
        pages = getattr(read_header(file), "n_frames", 1)
    with damage_as_unusable():
        image = read_header(file)
        if not deep_pictures.is_deep(image):
            upright = PREPROCESSOR.upright(file)
            return Numbers(np.asarray(upright), BYTES, pages, upright.info["icc_profile"], upright.info["profile_note"])
        numbers = deep_pictures.read_numbers(image, lambda: read_header(file))
    known = (0, 0xFFFF) if image.format == "PPM" else None  # Pillow applies what the header says
    return Numbers(numbers, known, pages, *deep_profile(image.info.get("icc_profile"), numbers.ndim == 3))


def _read_npy(file: BufferedIOBase) -> np.ndarray:
    try:
        return load_npy(cast(BinaryIO, file), 3 * MAX_PIXELS)
    except InputError as error:
        raise UnusableError(str(error)) from error


def first_plane(values: np.ndarray) -> tuple[np.ndarray, list[Note]]:
    """The first picture of planes [n, H, W], with a note where there are several.

    Raises:
      UnusableError: the shape is not that of pictures.
    """
    if values.ndim == 3 and values.shape[-1] in (1, 3):
        return values, []
    if values.ndim == 3 and values.shape[0] == 1:
        return values[0], []
    remedy = layout_remedy(values.shape)
    if values.ndim == 3 and not remedy:
        return values[0], [Note(f"the first of {len(values)} planes is used")]
    if values.ndim != 2:
        raise UnusableError(f"it has shape {values.shape}: {remedy or 'save [height, width] or [height, width, 3]'}")
    return values, []
