"""Picture files to restore: what is read from each kind, to the level, and what is said about it."""

import contextlib
import io
import pathlib
import sys
import tempfile
import types
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fmdp.data.color_profiles import DEEP, srgb_profile
from fmdp.data.optional_formats import CONVERTED, OPTIONAL
from fmdp.data.unusable import UnusableError
from fmdp.restoration import picture_files
from fmdp.restoration.output_formats import OUTPUT_FORMATS, encode_png16
from fmdp.restoration.picture_files import read_picture, read_plane
from fmdp.restoration.prepare import Note
from tests.support import color_profiles
from tests.support.generated import cases

TWELVE = np.arange(4096, dtype=np.uint16).reshape(64, 64)
LEVELS = np.linspace(-1, 1, 4096).reshape(64, 64)
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (8, 9, 3), np.uint8)
COLOUR16 = RNG.integers(0, 65536, (8, 9, 3), np.uint16)


def save(path, pixels):
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def texts(picture):
    return tuple(note.text for note in picture.notes)


def refusal(path, stated=None, parameter=""):
    with pytest.raises(UnusableError) as refused:
        read_picture(path, stated)
    assert "\n" not in str(refused.value)
    assert refused.value.parameter == parameter
    return str(refused.value)


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.npy"])
def test_a_ramp_of_12_bits_reads_as_the_exact_levels(tmp_path, name):
    found = read_picture(save(tmp_path / name, TWELVE))
    np.testing.assert_allclose(found.pixels[..., 0], LEVELS, atol=1e-6)
    assert found.range == (0, 4095)
    assert found.notes == (Note("values from 0 to 4095 of uint16: white is taken as 4095", "range"),)
    stated = read_picture(tmp_path / name, (0, 8190))
    np.testing.assert_allclose(stated.pixels[..., 0], (LEVELS + 1) / 2 - 1, atol=1e-6)
    assert (stated.range, stated.notes) == ((0, 8190), ())


def test_all_16_bits_are_kept(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name in ("every.png", "every.tif"):
        found = read_picture(save(tmp_path / name, every))
        np.testing.assert_allclose(found.pixels.ravel(), np.linspace(-1, 1, 65536), atol=2e-7)
        assert (found.range, found.notes) == ((0, 65535), ())
    (tmp_path / "colour.png").write_bytes(encode_png16(COLOUR16))
    np.testing.assert_allclose(read_picture(tmp_path / "colour.png").pixels, COLOUR16 / 32767.5 - 1, atol=2e-7)
    twelve = np.stack([TWELVE, TWELVE[::-1], TWELVE.T], -1)
    (tmp_path / "twelve.png").write_bytes(encode_png16(twelve))
    np.testing.assert_allclose(read_picture(tmp_path / "twelve.png").pixels, twelve / 2047.5 - 1, atol=1e-6)


def test_pictures_of_8_bits_have_no_other_range(tmp_path):
    found = read_picture(save(tmp_path / "a.png", COLOUR), (0, 4095))
    np.testing.assert_array_equal(found.pixels, COLOUR.astype(np.float32) / 127.5 - 1)
    assert found.range == (0, 255)
    assert texts(found) == ("a picture of 8 bits: black is taken as 0 and white as 255, not [0, 4095]",)
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 4095\n" + np.array([[0, 50], [1, 100]], ">u2").tobytes())
    dark = read_picture(tmp_path / "a.pgm")  # its header says white, and Pillow applies it
    np.testing.assert_allclose(dark.pixels[..., 0], np.array([[0, 50], [1, 100]]) / 2047.5 - 1, atol=2e-5)


def test_a_file_is_named_by_text_or_by_a_path(tmp_path):
    path = save(tmp_path / "unit.npy", RNG.random((8, 8)).astype(np.float32))
    np.testing.assert_array_equal(read_picture(str(path)).pixels, read_picture(path).pixels)


def test_floats_are_read_with_their_range(tmp_path):
    unit = RNG.random((8, 8)).astype(np.float32)
    for name in ("unit.tif", "unit.npy"):
        found = read_picture(save(tmp_path / name, unit))
        np.testing.assert_allclose(found.pixels[..., 0], 2 * unit - 1, atol=1e-6)
        assert "black is taken as 0 and white as 1" in texts(found)[0]
        signed = read_picture(save(tmp_path / name, 2 * unit - 1))
        np.testing.assert_allclose(signed.pixels[..., 0], 2 * unit - 1, atol=1e-6)
        assert "black is taken as -1 and white as 1" in texts(signed)[0]
        scaled = save(tmp_path / name, 3000 * unit - 500)
        assert "state the values of black and white" in refusal(scaled, parameter="range")
        np.testing.assert_allclose(read_picture(scaled, (-500, 2500)).pixels[..., 0], 2 * unit - 1, atol=1e-5)
        assert "are far from black and white at [0, 1]" in refusal(scaled, (0, 1), "range")
        unit[3, 4] = np.nan
        assert "it holds 1 NaN among 64 values, the first at [3, 4]" in refusal(save(tmp_path / name, unit), (0, 1))
        unit[3, 4] = 0.5


def test_wide_integers(tmp_path):
    wide = np.int32([[-1000, 3000], [0, 1000]])
    for name in ("wide.tif", "wide.npy"):
        told = refusal(save(tmp_path / name, wide), parameter="range")
        assert "integers from -1000 to 3000 are not of 8 to 16 bits: state the values" in told
        np.testing.assert_allclose(
            read_picture(tmp_path / name, (-1000, 3000)).pixels[..., 0], wide / 2000 - 0.5, atol=1e-6
        )
        eight = read_picture(save(tmp_path / name, np.int32([[0, 255], [51, 102]])))
        np.testing.assert_allclose(eight.pixels[..., 0], [[-1, 1], [-0.6, -0.2]], atol=1e-6)


def test_pages_frames_and_planes_are_said(tmp_path):
    pages = [Image.fromarray(TWELVE + i) for i in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    found = read_picture(tmp_path / "stack.tif")
    assert texts(found)[0] == "the first of 3 pages is used"
    np.testing.assert_allclose(found.pixels[..., 0], LEVELS, atol=1e-6)
    frames = [Image.fromarray(np.full((8, 8), 90 * i, np.uint8)) for i in range(1, 3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert texts(read_picture(tmp_path / "film.gif")) == ("the first of 2 pages is used",)
    volume = read_picture(save(tmp_path / "volume.npy", np.stack([TWELVE] * 7)))
    assert texts(volume)[0] == "the first of 7 planes is used"
    assert volume.pixels.shape == (64, 64, 1)


@pytest.mark.parametrize(
    ("pixels", "message", "parameter"),
    [
        (np.zeros((3, 8, 8)), "it has shape (3, 8, 8): the channels come first: move them last with np.moveaxis", ""),
        (np.zeros((8, 8, 4)), "leave out the transparency with x[..., :3]", ""),
        (np.zeros((5, 8, 8, 3)), "it has shape (5, 8, 8, 3): save [height, width] or [height, width, 3]", ""),
        (np.zeros(8), "it has shape (8,): save [height, width]", ""),
        (np.zeros((0, 8)), "it is empty, of shape (0, 8)", ""),
        (np.zeros((8, 8), complex), "it holds complex128: give real numbers", ""),
        (np.array([[None]]), "it holds Python objects", ""),
        (np.eye(8, dtype=np.uint8), "integers of 0 and 1 alone", "range"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_pictures(tmp_path, pixels, message, parameter):
    np.save(tmp_path / "x.npy", pixels, allow_pickle=True)
    assert message in refusal(tmp_path / "x.npy", parameter=parameter)


def test_damaged_and_vast_arrays(tmp_path):
    content = save(tmp_path / "x.npy", TWELVE).read_bytes()
    for broken in (content[:-9], content[:60], b"\x93NUMPY", b"\x93NUMPY\x09\x09\xff\xff"):
        (tmp_path / "x.npy").write_bytes(broken)
        told = refusal(tmp_path / "x.npy")
        assert "it is not an .npy file of plain numbers (" in told or told == "not an image"
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    assert "its shape (1000000, 1000000) has more than" in refusal(tmp_path / "x.npy")


def test_orders_and_kinds_of_numbers_make_no_difference(tmp_path):
    for pixels in (
        TWELVE.astype(">u2"),
        np.asfortranarray(TWELVE),
        TWELVE.astype(np.int64),
        TWELVE[..., None],
        TWELVE[None],
    ):
        np.testing.assert_allclose(read_picture(save(tmp_path / "x.npy", pixels)).pixels[..., 0], LEVELS, atol=1e-6)
    truth = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(read_picture(save(tmp_path / "x.npy", truth)).pixels[..., 0], 2.0 * truth - 1)
    gray = np.stack([TWELVE] * 3, -1)
    assert read_picture(save(tmp_path / "x.npy", gray)).pixels.shape == (64, 64, 1)


KINDS = ["?", "u1", "i1", ">u2", "<i2", "u4", "i8", "f2", ">f4", "f8", "c8", "U3"]
SHAPES = [(), (3,), (6, 7), (6, 7, 1), (6, 7, 3), (6, 7, 4), (3, 6, 7), (1, 6, 7), (5, 6, 7), (0, 7), (2, 6, 7, 3)]
SPANS = [(0, 1), (0, 0.5), (-1, 1), (0, 255), (0, 4095), (-2000, 3000), (0, 70_000), (5, 5), (0, np.nan), (-np.inf, 1)]


@cases(150)
@given(
    st.sampled_from(KINDS), st.sampled_from(SHAPES), st.sampled_from(SPANS), st.sampled_from([None, (0, 1), (0, 4095)])
)
def test_any_array_is_read_exactly_or_refused_in_one_line(kind, shape, span, stated):
    """What is read has the range that it says, and this range is the one that was stated, if one was."""
    rng = np.random.default_rng(0)
    finite = [x if np.isfinite(x) else 0 for x in span]
    values = rng.uniform(*finite, shape)
    if values.size:
        values.flat[0], values.flat[-1] = span
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaN and large numbers as integers
        values = values.astype(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.npy"
        np.save(path, values)
        try:
            found = read_picture(path, stated)
        except UnusableError as error:
            assert str(error).isprintable()  # noqa: PT017
            return
    black, white = found.range
    assert stated in (None, (black, white))
    first = values[0] if values.ndim == 3 and values.shape[-1] not in (1, 3) else values
    wanted = (first.astype(float) - black) / (white - black) * 2 - 1
    wanted = np.atleast_3d(wanted)
    np.testing.assert_allclose(np.broadcast_to(found.pixels, wanted.shape), wanted, atol=1e-5)
    assert found.pixels.dtype == np.float32
    assert black <= values.min() or stated or values.dtype.kind == "f"
    if not stated and values.dtype.kind in "bu":
        assert values.max() <= white


def test_masks_and_kernels_are_arrays_too(tmp_path):
    kernel = np.array([[0, 2.5, -1], [7, 0, 0]])
    np.testing.assert_array_equal(read_plane(save(tmp_path / "k.npy", kernel)), kernel.astype(np.float32))
    np.testing.assert_array_equal(read_plane(save(tmp_path / "k.npy", kernel[..., None])), kernel.astype(np.float32))
    np.testing.assert_array_equal(read_plane(save(tmp_path / "m.npy", np.eye(4, dtype=bool))), np.eye(4))
    np.testing.assert_allclose(
        read_plane(save(tmp_path / "m.png", np.uint8([[0, 255], [51, 102]]))), [[0, 1], [0.2, 0.4]], atol=1e-6
    )
    for bad, message in [(np.zeros((2, 3, 4)), "save [height, width]"), (np.full((2, 2), np.nan), "4 NaN")]:
        with pytest.raises(UnusableError) as refused:
            read_plane(save(tmp_path / "bad.npy", bad))
        assert message in str(refused.value)


def test_tiffs_that_pillow_does_not_read_need_tifffile(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    unit = RNG.random((8, 9, 3))
    for kind in (np.float16, np.float32, np.float64):
        tifffile.imwrite(tmp_path / "x.tif", unit.astype(kind), photometric="rgb")
        np.testing.assert_allclose(read_picture(tmp_path / "x.tif").pixels, 2 * unit - 1, atol=2e-3)
    adobe = color_profiles.profile(1.8, color_profiles.ADOBE_RGB)
    for profile, carried, said in [(adobe, None, (DEEP,)), (srgb_profile(), srgb_profile(), ())]:
        tifffile.imwrite(tmp_path / "x.tif", 2 * unit - 1, photometric="rgb", iccprofile=profile)
        found = read_picture(tmp_path / "x.tif")
        assert (found.profile, texts(found)[:-1]) == (carried, said)
    tifffile.imwrite(tmp_path / "x.tif", np.stack([unit, unit]), photometric="rgb")
    assert texts(read_picture(tmp_path / "x.tif"))[0] == "the first of 2 pages is used"
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert "a TIFF file, which needs the library tifffile: pip install tifffile, or save it as .npy" in refusal(
        tmp_path / "x.tif"
    )


class Header(dict):
    pixel_array = TWELVE


def fits(pixels):
    return types.SimpleNamespace(getdata=lambda file: pixels)


def heif(pixels, profile=None):
    image = Image.fromarray(pixels)
    image.info["icc_profile"] = profile
    return types.SimpleNamespace(open_heif=lambda file: types.SimpleNamespace(to_pillow=lambda: image))


def raw(pixels):
    def postprocess(**options):
        assert options["output_bps"] == 16
        return pixels

    developed = contextlib.nullcontext(types.SimpleNamespace(postprocess=postprocess))
    return types.SimpleNamespace(imread=lambda file: developed)


def dicom(**header):
    return types.SimpleNamespace(dcmread=lambda file: Header(header))


@pytest.mark.parametrize(
    ("name", "module", "library", "wanted"),
    [
        ("a.fits", "astropy.io.fits", fits(TWELVE.astype(">i4")), LEVELS),
        ("a.fits", "astropy.io.fits", fits(np.stack([TWELVE] * 4)), LEVELS),
        ("a.dcm", "pydicom", dicom(BitsStored=12, PhotometricInterpretation="MONOCHROME2"), LEVELS),
        ("a.dcm", "pydicom", dicom(BitsStored=12, PhotometricInterpretation="MONOCHROME1"), -LEVELS),
        ("a.dcm", "pydicom", dicom(BitsStored=13), (LEVELS + 1) * 4095 / 8191 - 1),
        ("a.HEIC", "pillow_heif", heif(COLOUR), COLOUR / 127.5 - 1),
        ("a.nef", "rawpy", raw(COLOUR16), COLOUR16 / 32767.5 - 1),
    ],
)
def test_what_a_library_reads_where_it_is_installed(tmp_path, monkeypatch, name, module, library, wanted):
    """The libraries are stand-ins with the same calls, since none of them is a dependency."""
    (tmp_path / name).write_bytes(b"content that only the library knows")
    monkeypatch.setitem(sys.modules, module, library)
    found = read_picture(tmp_path / name).pixels
    np.testing.assert_allclose(found[..., 0] if np.ndim(wanted) == 2 else found, wanted, atol=1e-6)


def test_the_colours_of_phones_become_srgb(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"content that only the library knows")
    p3 = color_profiles.profile(color_profiles.SRGB_CURVE, color_profiles.DISPLAY_P3)
    monkeypatch.setitem(sys.modules, "pillow_heif", heif(COLOUR, p3))
    found = read_picture(tmp_path / "a.heic")
    wanted = color_profiles.in_srgb(COLOUR, color_profiles.SRGB_CURVE, color_profiles.DISPLAY_P3)
    assert np.abs((found.pixels + 1) * 127.5 - wanted).max() < 2
    assert np.abs(COLOUR - wanted).max() > 10
    assert (found.profile, texts(found)) == (srgb_profile(), ("the colours were converted to sRGB",))


@pytest.mark.parametrize("suffix", OPTIONAL)
def test_without_its_library_a_file_is_refused_by_name(tmp_path, monkeypatch, suffix):
    form = OPTIONAL[suffix]
    monkeypatch.setitem(sys.modules, form.module, None)
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    told = refusal(tmp_path / f"a{suffix}")
    assert (
        told
        == f"a {form.name} file, which needs the library {form.library}: pip install {form.library}, or save it as .npy"
    )


@pytest.mark.parametrize("suffix", CONVERTED)
def test_other_files_are_refused_by_name(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert refusal(tmp_path / f"a{suffix}") == f"{CONVERTED[suffix]}: save its pictures as PNG, TIFF or .npy"


def test_dicom_with_a_sign_or_in_other_colours(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pydicom", dicom(PixelRepresentation=1))
    assert texts(read_picture(tmp_path / "a.dcm")) == ("values from 0 to 4095 of uint16: white is taken as 4095",)
    monkeypatch.setitem(sys.modules, "pydicom", dicom(PhotometricInterpretation="YBR_FULL"))
    assert "a DICOM file in YBR_FULL: convert it to RGB" in refusal(tmp_path / "a.dcm")


@pytest.mark.parametrize(("name", "error"), [("png", 1 / 255), ("png16", 1 / 65535), ("npy", 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_again(tmp_path, name, error, channels):
    form = OUTPUT_FORMATS[name]
    image = RNG.uniform(-1, 1, (9, 7, channels)).astype(np.float32)
    path = tmp_path / f"x{form.suffix}"
    form.save(path, image)
    found = read_picture(path)
    assert found.pixels.shape == image.shape
    np.testing.assert_allclose(found.pixels, image, atol=error + 1e-7)
    beyond = np.float32([[-1.5, 1.5], [-1, 1]])[..., None]
    form.save(path, beyond)
    np.testing.assert_allclose(read_picture(path).pixels, beyond if form.exact else np.clip(beyond, -1, 1), atol=1e-6)


def test_the_content_decides_and_folders_list_what_can_be_restored(tmp_path):
    assert {".npy", ".fits", ".dcm", ".heic", ".nef", ".png"} <= picture_files.RESTORABLE
    file = io.BytesIO()
    np.save(file, TWELVE)
    (tmp_path / "x.png").write_bytes(file.getvalue())
    np.testing.assert_allclose(read_picture(tmp_path / "x.png").pixels[..., 0], LEVELS, atol=1e-6)
    Image.fromarray(COLOUR).save(tmp_path / "y.npy", "PNG")
    np.testing.assert_array_equal(read_picture(tmp_path / "y.npy").range, (0, 255))


def test_profiles_of_deep_pictures_are_kept_only_if_they_are_of_srgb(tmp_path):
    for profile, notes in [
        (srgb_profile(), ()),
        (
            color_profiles.profile(1.8, color_profiles.ADOBE_RGB),
            (DEEP,),
        ),
        (
            b"no profile",
            ("the colour profile cannot be used (cannot open profile from string): the picture counts as sRGB",),
        ),
    ]:
        (tmp_path / "x.png").write_bytes(encode_png16(COLOUR16, profile))
        picture = read_picture(tmp_path / "x.png")
        assert texts(picture) == notes
        assert picture.profile == (None if notes else srgb_profile())
        np.testing.assert_allclose((picture.pixels + 1) * 32767.5, COLOUR16, atol=0.01)


def test_formats_say_that_they_are_srgb(tmp_path):
    for channels in (1, 3):
        for name, form in OUTPUT_FORMATS.items():
            form.save(tmp_path / f"{name}{form.suffix}", np.zeros((4, 4, channels), np.float32), srgb_profile())
        for name in ("png", "png16"):
            with Image.open(tmp_path / f"{name}.png") as image:
                assert image.info.get("icc_profile") == (srgb_profile() if channels == 3 else None)
                assert image.info.get("srgb") == (None if channels == 3 else 0)
                image.load()
