import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fmdp.data import decoding
from fmdp.data.color_profiles import srgb_profile
from fmdp.errors import InputError
from fmdp.restoration import image_files
from fmdp.restoration.output_formats import OUTPUT_FORMATS
from fmdp.restoration.picture_files import read_picture
from fmdp.restoration.request import Request
from tests.support import color_profiles
from tests.support.exact_priors import COLOUR, PRIOR
from tests.support.image_folders import restore_all
from tests.support.zero_field import Zero


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def load(path):
    with Image.open(path) as image:
        return np.asarray(image, float)


def test_the_facts_are_json(tmp_path):
    """Numbers of numpy's are numbers, and a clean picture without noise is restored with a finite PSNR."""
    save(tmp_path / "in" / "a.png", np.eye(8, dtype=np.uint8) * 200)
    request, made_by = Request(degraded=False, sigma=0.0), {"version": np.int64(3), "scale": np.float32(0.5)}
    (outcome,) = image_files.restore_files(PRIOR, request, tmp_path / "in", tmp_path / "out", made_by)
    assert outcome.error is None
    written = json.loads((tmp_path / "out" / "a.json").read_text(), parse_constant=pytest.fail)
    assert written["psnr"][0] > 100
    assert (written["version"], written["scale"]) == (3, 0.5)


@pytest.mark.slow
def test_a_folder_of_mixed_files(tmp_path, capsys):
    """As the issue has it: sizes, 16 bits, a palette with alpha, an EXIF rotation, twins by name, and broken files."""
    source, output = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(0)
    save(source / "digit.png", rng.integers(0, 256, (8, 8), np.uint8))
    save(source / "deep.png", rng.integers(0, 65536, (9, 10), np.uint16))
    palette = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).quantize(8)
    palette.info["transparency"] = 0
    save(source / "palette.png", palette)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    save(source / "sub" / "photo.jpg", rng.integers(0, 256, (8, 14, 3), np.uint8), exif=exif.tobytes())
    save(source / "digit.bmp", rng.integers(0, 256, (4, 4), np.uint8))
    (source / "broken.png").write_bytes((source / "digit.png").read_bytes()[:60])
    (source / "<script>alert(1)<script>.png").write_bytes(b"")
    (source / "notes.txt").write_text("no picture")
    request = Request(degraded=True, sigma=0.1, lookaheads=(0.0, 1.0))
    done, faults = restore_all(PRIOR, request, source, output)
    assert done == 5
    assert len(faults) == 2
    assert any("broken.png: damaged" in line for line in faults)
    assert any("an empty file" in line for line in faults)
    made = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    stems = ["digit_png", "digit_bmp", "deep", "palette", "sub/photo"]
    endings = ["_r0.00.png", "_r1.00.png", "_measured.png", "_sheet.png", ".html", ".json"]
    assert made == {stem + ending for stem in stems for ending in endings}
    assert load(output / "sub" / "photo_r0.00.png").shape == (14, 8)
    assert "converted to gray" in json.loads((output / "sub" / "photo.json").read_text())["notes"][0]
    assert not {"num_samples", "steps", "gain"} & json.loads((output / "deep.json").read_text()).keys()
    clear = load(source / "palette.png") == 0  # indices
    assert 0 < clear.sum() < clear.size
    averaged = 0.01 * np.square([0.299, 0.587, 0.114]).sum()  # the variance of the noise, once in gray
    white = 127.5 * (1 + 0.25 / (0.25 + averaged))
    np.testing.assert_allclose(load(output / "palette_r0.00.png")[clear], white, atol=1)
    deep = load(source / "deep.png") / 257
    np.testing.assert_allclose(load(output / "deep_r0.00.png"), 127.5 + (deep - 127.5) * 0.25 / 0.26, atol=1.1)


@pytest.mark.slow
def test_several_samples_leave_their_mean_and_spread(tmp_path):
    save(tmp_path / "x.png", np.full((8, 8), 90, np.uint8))
    request = Request(
        operator="box_inpainting",
        parameters={"size": 4},
        degraded=False,
        num_samples=4,
        steps=20,
        lookaheads=(1.0,),
    )
    restore_all(PRIOR, request, tmp_path / "x.png", tmp_path / "out")
    spread = load(tmp_path / "out" / "x_std.png")
    assert spread[2:6, 2:6].mean() > 3 * spread[:2].mean()
    assert spread.max() == 255
    (white,) = json.loads((tmp_path / "out" / "x.json").read_text())["white_of_std"]
    assert white * spread[2:6, 2:6].mean() / 255 == pytest.approx(0.5, rel=0.4)  # of the prior, from 4 samples
    assert (tmp_path / "out" / "x.png").exists()


def ramp_files(folder):
    """The 4,096 levels of 12 bits as PNG, and the same as an array."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    save(folder / "ramp.png", ramp)
    np.save(folder / "array.npy", ramp)
    return np.linspace(-1, 1, 4096).reshape(64, 64)


@pytest.mark.parametrize(("name", "error"), [("png", 1 / 255), ("png16", 1 / 65535), ("npy", 1e-6)])
def test_results_and_measurements_keep_the_depth_that_is_asked_for(tmp_path, name, error):
    levels = ramp_files(tmp_path / "in")
    form = OUTPUT_FORMATS[name]
    request = Request(degraded=True, sigma=0.1)
    outcomes = list(
        image_files.restore_files(Zero((8, 8, 1)), request, tmp_path / "in", tmp_path / "out", {}, form=form)
    )
    assert [outcome.error for outcome in outcomes] == [None, None]
    for stem in ("ramp", "array"):
        for ending in ("", "_measured"):
            found = read_picture(tmp_path / "out" / f"{stem}{ending}{form.suffix}").pixels
            wanted = levels if ending else levels / 1.1  # the denoiser of this prior gives back s y, and s = 1 / 1.1
            np.testing.assert_allclose(found[..., 0], wanted, atol=error + 2e-6)
        facts = json.loads((tmp_path / "out" / f"{stem}.json").read_text())
        assert facts["range"] == [0, 4095]
        assert facts["output_format"] == name
        assert facts["notes"][0] == "values from 0 to 4095 of uint16: white is taken as 4095"
    again = list(image_files.restore_files(Zero((8, 8, 1)), request, tmp_path / "in", tmp_path / "out", {}, form=form))
    assert [outcome.error for outcome in again] == [None, None]  # earlier results are replaced


def test_spreads_are_written_as_they_are_in_files_of_floats(tmp_path):
    np.save(tmp_path / "x.npy", np.full((8, 8), 90, np.uint8))
    request = Request(operator="box_inpainting", parameters={"size": 4}, num_samples=4, steps=2, lookaheads=(1.0,))
    list(
        image_files.restore_files(PRIOR, request, tmp_path / "x.npy", tmp_path / "out", {}, form=OUTPUT_FORMATS["npy"])
    )
    spread = np.load(tmp_path / "out" / "x_std.npy")
    (white,) = json.loads((tmp_path / "out" / "x.json").read_text())["white_of_std"]
    assert spread.shape == (8, 8, 1)
    assert spread.max() == pytest.approx(white)
    assert spread.min() >= 0


@pytest.mark.slow
def test_measurements_that_are_no_images_are_written_as_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(64, dtype=np.uint8).reshape(8, 8))
    request = Request(
        operator="phase_retrieval", degraded=False, parameters={"oversampling": 1.0}, steps=1, lookaheads=(0.0,)
    )
    (outcome,) = image_files.restore_files(
        PRIOR, request, tmp_path / "x.npy", tmp_path / "out", {}, form=OUTPUT_FORMATS["npy"]
    )
    assert outcome.restored.measured.shape != (8, 8, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "x_measured.npy"), outcome.restored.measured)


def test_a_range_that_must_be_stated_is_asked_for_by_the_request(tmp_path):
    np.save(tmp_path / "x.npy", np.linspace(0, 3000, 64).reshape(8, 8))
    (outcome,) = image_files.restore_files(PRIOR, Request(sigma=0.1), tmp_path / "x.npy", tmp_path / "out", {})
    assert str(outcome.error).startswith(
        "Request(range=None): values from 0 to 3000 are not floats from -1 to 1: state"
    )
    request = Request(degraded=True, sigma=0.1, range=(0, 3000))
    (outcome,) = image_files.restore_files(PRIOR, request, tmp_path / "x.npy", tmp_path / "out", {})
    np.testing.assert_allclose(outcome.restored.measured[..., 0], np.linspace(-1, 1, 64).reshape(8, 8), atol=1e-6)
    assert json.loads((tmp_path / "out" / "x.json").read_text())["range"] == [0, 3000]


def test_folders_that_cannot_be_used(tmp_path):
    for source, output, message in [
        (tmp_path / "nowhere", tmp_path / "out", f"restore_files(source='{tmp_path}/nowhere'): it does not exist"),
        (tmp_path, tmp_path / "out", f"restore_files(output='{tmp_path}/out'): it lies inside the folder of the"),
        (tmp_path, tmp_path.parent / "out", f"restore_files(source='{tmp_path}'): it holds no images"),
    ]:
        with pytest.raises(InputError) as refused:
            image_files.find_images(source, output)
        assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    photo = tmp_path / "photo.png"
    save(photo, np.full((8, 8), 90, np.uint8))
    before = photo.read_bytes()
    for output, message in [(tmp_path, "it is the folder of the image"), (photo, "it is a file: name a folder")]:
        with pytest.raises(InputError, match=message):
            restore_all(PRIOR, Request(), photo, output)
    assert list(tmp_path.iterdir()) == [photo]
    assert photo.read_bytes() == before


def test_results_go_beside_the_input_unless_told_otherwise(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    for source, wanted in [
        ("photo.jpg", "restored"),
        ("../photo.jpg", "../restored"),
        ("photos/", "restored"),
        ("/a/photos", "/a/restored"),
        (".", f"{tmp_path}/restored"),
        ("..", f"{tmp_path.parent}/restored"),
    ]:
        assert str(image_files.default_output(pathlib.Path(source))) == wanted


def test_results_in_the_folder_are_no_input(tmp_path):
    for name in ("a.png", "restored/b.png"):
        flat(tmp_path / "in" / name)
    found = image_files.find_images(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in found] == ["a.png", "b.png"]  # a folder of your own of that name
    photo = tmp_path / "in" / "a.png"
    assert restore_all(PRIOR, Request(sigma=0.1), photo, image_files.default_output(photo)) == (1, [])
    assert image_files.find_images(tmp_path / "in", tmp_path / "out") == [photo]
    with pytest.raises(InputError, match="it lies inside the folder of the images"):
        image_files.find_images(tmp_path / "in" / "restored", image_files.default_output(photo))


def flat(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(path, "PNG")


def test_restoring_writes_nothing_outside_its_output(tmp_path):
    source, output, elsewhere = tmp_path / "in", tmp_path / "out", tmp_path / "elsewhere"
    for name in ("plain.png", "inner/a.png", "link/b.png"):
        flat(source / name)
    shutil.move(source / "link", elsewhere)
    (source / "link").symlink_to("../elsewhere")
    (source / "inner" / "up.png").symlink_to("../../in/plain.png")
    output.mkdir()
    (output / "inner").symlink_to(elsewhere)  # made by somebody who knows what will be written
    (output / "plain.png").symlink_to(elsewhere / "b.png")
    before = {path: path.read_bytes() for path in [*elsewhere.rglob("*"), *source.rglob("*")] if path.is_file()}
    done, faults = restore_all(PRIOR, Request(degraded=True, sigma=0.1), source, output)
    assert done == 1
    assert sum("leads out of it" in line for line in faults) == 2
    assert sum("out/plain.png is not from restoring" in line for line in faults) == 1
    after = {path: path.read_bytes() for path in [*elsewhere.rglob("*"), *source.rglob("*")] if path.is_file()}
    assert after == before
    assert {path.name for path in (output / "link").iterdir()} == {"b.png", "b_measured.png", "b.json"}


def test_nothing_but_earlier_restorations_is_replaced(tmp_path):
    """Not what a link leads to, nor what lies where the results shall be."""
    originals = tmp_path / "originals"
    for name in ("a.png", "sub/c.png"):
        flat(originals / name)
    source = tmp_path / "links"
    source.mkdir()
    (source / "a.png").symlink_to(originals / "a.png")
    (source / "sub").symlink_to(originals / "sub")
    request = Request(degraded=True, sigma=0.1)
    done, faults = restore_all(PRIOR, request, source, originals)
    assert (done, len(faults)) == (0, 2)
    assert all("is not from restoring" in line for line in faults)
    assert {path.name for path in originals.rglob("*")} == {"a.png", "sub", "c.png"}
    for _ in range(2):
        assert restore_all(PRIOR, request, source, tmp_path / "out") == (2, [])
    (tmp_path / "out" / "a.json").write_text("{}")
    assert restore_all(PRIOR, request, source, tmp_path / "out")[0] == 1


@pytest.mark.slow
def test_no_two_pictures_are_restored_into_one_file(tmp_path):
    names = ["a.png", "a.PNG", "A.png", "a.bmp", "a_png.png", "a_bmp.png", "a_measured.png", "a_std.png", "a_png_2.png"]
    names += [
        "a_r0.50.png",
        "a_r0.50_std.png",
        "a_sheet.png",
        "...png",
        "x..png",
        "y" * 240 + ".png",
        "y" * 239 + "z.png",
    ]
    for name in names:
        flat(tmp_path / "in" / name)
    wanted = [name for name in names if not name.startswith(".")]
    for request in (
        Request(degraded=True, sigma=0.1),
        Request(degraded=True, sigma=0.1, lookaheads=(0.0, 0.5)),
        Request(operator="box_inpainting", parameters={"size": 4}, degraded=True, sigma=0.1, num_samples=2, steps=2),
    ):
        output = tmp_path / f"{len(request.lookaheads)}{request.num_samples}"
        done, faults = restore_all(PRIOR, request, tmp_path / "in", output)
        assert (done, faults) == (len(wanted), [])
        inputs = [json.loads(path.read_text())["input"] for path in output.glob("*.json")]
        assert sorted(inputs) == sorted(wanted)
        each = len(request.lookaheads) * (1 + (request.num_samples > 1)) + 2 + 2 * (len(request.lookaheads) > 1)
        assert len(list(output.iterdir())) == each * len(wanted)
        assert len({path.name.casefold() for path in output.iterdir()}) == each * len(wanted)
    done, faults = restore_all(PRIOR, Request(degraded=True, sigma=0.1), tmp_path / "in" / "...png", output)
    assert (done, faults) == (1, [])
    assert (output / "picture.json").exists()


@pytest.mark.slow
def test_reading_files_needs_no_plots_and_restoring_arrays_no_files():
    program = """
import sys
import fmdp.restoration.restore
assert not {"PIL", "grain", "skimage", "matplotlib", "ml_collections"} & sys.modules.keys(), sys.modules.keys()
import fmdp.restoration.image_files
assert not {"skimage", "matplotlib"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_colour_profiles_are_read_and_results_carry_srgb(tmp_path, caplog):
    decoding._warn_once.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    p3 = color_profiles.profile(color_profiles.SRGB_CURVE, color_profiles.DISPLAY_P3)
    save(tmp_path / "in" / "p3.png", pixels, icc_profile=p3)
    save(tmp_path / "in" / "srgb.png", pixels, icc_profile=srgb_profile())
    save(tmp_path / "in" / "plain.png", pixels)
    save(tmp_path / "in" / "broken.png", pixels, icc_profile=b"no profile")
    assert restore_all(COLOUR, Request(sigma=0.1), tmp_path / "in", tmp_path / "out") == (4, [])
    notes, carried = {}, {}
    for name in ("p3", "srgb", "plain", "broken"):
        notes[name] = json.loads((tmp_path / "out" / f"{name}.json").read_text())["notes"]
        for ending in (".png", "_measured.png"):
            with Image.open(tmp_path / "out" / f"{name}{ending}") as image:
                carried[name + ending] = image.info.get("icc_profile")
    reason = "cannot open profile from string"
    unusable = f"the colour profile cannot be used ({reason}): the picture counts as sRGB"
    assert notes == {"p3": ["the colours were converted to sRGB"], "srgb": [], "plain": [], "broken": [unusable]}
    assert {name for name, profile in carried.items() if profile} == {
        "p3.png", "p3_measured.png", "srgb.png", "srgb_measured.png"
    }  # fmt: skip
    assert set(carried.values()) == {None, srgb_profile()}
    wanted = color_profiles.in_srgb(pixels, color_profiles.SRGB_CURVE, color_profiles.DISPLAY_P3)
    assert np.abs(load(tmp_path / "out" / "p3_measured.png") - wanted).max() < 2
    np.testing.assert_array_equal(load(tmp_path / "out" / "broken_measured.png"), pixels)
    assert not caplog.records  # a note, and no warning besides


def test_gray_results_say_that_they_are_srgb(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    save(tmp_path / "x.png", pixels, icc_profile=color_profiles.profile(1.8))
    assert restore_all(PRIOR, Request(sigma=0.1), tmp_path / "x.png", tmp_path / "out") == (1, [])
    with Image.open(tmp_path / "out" / "x_measured.png") as image:
        assert image.info["srgb"] == 0
        assert np.abs(np.asarray(image) - color_profiles.in_srgb(pixels.astype(float), 1.8)).max() < 2


def test_files_of_earlier_settings_do_not_stay(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png", np.full((8, 8), 90, np.uint8))
    output = tmp_path / "out"
    restore_all(PRIOR, Request(sigma=0.1, lookaheads=(0.0, 1.0)), tmp_path / "in", output)
    assert (output / "a.html").exists()
    (output / "mine.png").write_bytes(b"mine")
    (tmp_path / "kept.png").write_bytes(b"kept")
    settings = json.loads((output / "a.json").read_text())
    settings["files"] += ["../kept.png", 7]
    (output / "a.json").write_text(json.dumps(settings))
    read, original = [], image_files.read_json
    monkeypatch.setattr(image_files, "read_json", lambda path: read.append(path) or original(path))
    restore_all(PRIOR, Request(sigma=0.2), tmp_path / "in", output)
    assert read == [output / "a.json"]  # once
    assert sorted(file.name for file in output.iterdir()) == ["a.json", "a.png", "a_measured.png", "mine.png"]
    assert json.loads((output / "a.json").read_text())["files"] == ["a.png", "a_measured.png"]
    assert (tmp_path / "kept.png").exists()
