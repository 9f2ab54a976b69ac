"""Picture files that only a library which fmdp does not install can read, or none."""

import importlib
import io
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fmdp.data.color_profiles import deep_profile, in_srgb
from fmdp.data.unusable import UnusableError, damage_as_unusable
from fmdp.io.archives import MAX_PIXELS
from fmdp.io.levels import Range

TIFF_PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Numbers(NamedTuple):
    """The numbers of a picture, [H, W], [H, W, 1 or 3] or planes [n, H, W].

    Attributes:
      range: black and white, where the file tells them.
      pages: in the file, of which this is the first.
      profile, note: as `color_profiles.in_srgb` returns them.
    """

    values: np.ndarray
    range: Range | None = None
    pages: int = 1
    profile: bytes | None = None
    note: str = ""


class Format(NamedTuple):
    """A kind of files: its name, the library that reads it, and how, by a function of its module and an open file."""

    name: str
    library: str
    module: str
    read: Callable[[Any, io.BytesIO], Numbers]


def _read_fits(fits: Any, file: io.BytesIO) -> Numbers:
    """The first HDU with data, in the order of its rows."""
    return Numbers(np.asarray(fits.getdata(file)))


def _read_dicom(pydicom: Any, file: io.BytesIO) -> Numbers:
    """The stored values. Their bits tell white, if they have no sign."""
    header = pydicom.dcmread(file)
    values, colours = np.asarray(header.pixel_array), str(header.get("PhotometricInterpretation", ""))
    if colours not in ("", "MONOCHROME1", "MONOCHROME2", "RGB"):
        raise UnusableError(f"a DICOM file in {colours}: convert it to RGB")
    white = 2 ** int(header.get("BitsStored", 16)) - 1
    if header.get("PixelRepresentation", 0):
        return Numbers(values)
    return Numbers(white - values if colours == "MONOCHROME1" else values, (0, white))


def _read_heif(pillow_heif: Any, file: io.BytesIO) -> Numbers:
    """The first picture, of 8 bits, in sRGB."""
    image = pillow_heif.open_heif(file).to_pillow()
    image, profile, note = in_srgb(image, image.info.get("icc_profile"))
    return Numbers(np.asarray(image.convert("RGB")), (0, 255), profile=profile, note=note)


def _read_raw(rawpy: Any, file: io.BytesIO) -> Numbers:
    """Developed with the white balance of the camera, at 16 bits, with the gamma of sRGB's time, not brightened."""
    with rawpy.imread(file) as raw:
        return Numbers(raw.postprocess(output_bps=16, use_camera_wb=True, no_auto_bright=True), (0, 0xFFFF))


def _read_tiff(tifffile: Any, file: io.BytesIO) -> Numbers:
    """The first page."""
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        if np.prod(page.shape, dtype=float) > 3 * MAX_PIXELS:
            raise UnusableError(f"its shape {page.shape} is more than {MAX_PIXELS:,} pixels")
        values, tag = np.asarray(page.asarray()), page.tags.get("InterColorProfile")
        profile, note = deep_profile(tag and tag.value, values.shape[-1] == 3)
        return Numbers(values, None, len(tiff.pages), profile, note)


FITS = Format("FITS", "astropy", "astropy.io.fits", _read_fits)
DICOM = Format("DICOM", "pydicom", "pydicom", _read_dicom)
HEIF = Format("HEIF", "pillow-heif", "pillow_heif", _read_heif)
RAW = Format("raw", "rawpy", "rawpy", _read_raw)
TIFF = Format("TIFF", "tifffile", "tifffile", _read_tiff)

OPTIONAL = {
    **dict.fromkeys((".fits", ".fit", ".fts"), FITS),
    **dict.fromkeys((".dcm", ".dicom"), DICOM),
    **dict.fromkeys((".heic", ".heif"), HEIF),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"), RAW),
}
"""The formats that a library reads where it is installed, by suffix."""

CONVERTED = {
    ".czi": "Zeiss microscopy, which the library czifile reads",
    ".lif": "Leica microscopy, which the library readlif reads",
    ".nd2": "Nikon microscopy, which the library nd2 reads",
    ".oib": "Olympus microscopy, which the library oiffile reads",
    ".mrc": "electron microscopy, which the library mrcfile reads",
    ".nii": "NIfTI, which the library nibabel reads",
    ".gz": "a compressed file: unpack it; of NIfTI, the library nibabel reads the volume",
    ".h5": "HDF5, which the library h5py reads",
    ".hdf5": "HDF5, which the library h5py reads",
    ".mat": "MATLAB, which scipy.io.loadmat reads",
    ".exr": "OpenEXR, which the library OpenEXR reads",
    ".hdr": "Radiance, which the library imageio reads",
    ".jp2": "JPEG 2000, which Pillow reads",
    ".jxl": "JPEG XL, which the library pillow-jxl-plugin reads",
    ".psd": "Photoshop, of which Pillow reads the composite",
    ".svg": "a drawing without pixels",
    ".pdf": "a document",
    ".npz": "an archive of arrays, to train on",
    ".pt": "PyTorch tensors",
    ".zarr": "Zarr, which the library zarr reads",
    ".mp4": "a film",
    ".mov": "a film",
    ".avi": "a film",
}
"""What other files are, by suffix; fmdp reads none of them."""


def read_optional(form: Format, file: io.BufferedIOBase) -> Numbers:
    """A picture as the library of its format reads it.

    Raises:
      UnusableError: the library is not installed, or cannot read the file.
    """
    try:
        module = importlib.import_module(form.module)
    except ImportError as error:
        remedy = f"pip install {form.library}, or save it as .npy"
        raise UnusableError(f"a {form.name} file, which needs the library {form.library}: {remedy}") from error
    with damage_as_unusable():
        file.seek(0)
        return form.read(module, io.BytesIO(file.read()))  # libraries want a name of open files, and ours have none


def require_not_converted(path: pathlib.Path) -> None:
    """Raises UnusableError for a file of a format that is known, and not read."""
    if found := CONVERTED.get(path.suffix.lower()):
        raise UnusableError(f"{found}: save its pictures as PNG, TIFF or .npy")
