import dataclasses
import json
import re
import shutil
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fmdp import operators
from fmdp.errors import InputError
from fmdp.exact import Gaussian
from fmdp.restoration import image_files
from fmdp.restoration.request import Request
from fmdp.restoration.restore import MIN_SIGMA, estimate_noise, restore

PIXELS = Gaussian(jnp.zeros((8, 8, 1)), 0.25)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Exact:
    """The prior of 8x8 images of independent pixels of variance 1/4, in closed form."""

    one: Any = 1.0  # a leaf, as a network has
    channels: int = field(default=1, metadata=dict(static=True))

    @property
    def image_shape(self):
        return (8, 8, self.channels)

    def __call__(self, x, s, t):
        gray = [PIXELS.average_field(x[..., c : c + 1], s, t) for c in range(self.channels)]
        return self.one * jnp.concatenate(gray, -1)


PRIOR, COLOUR = Exact(), Exact(channels=3)


def picture(height, width, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, channels)).astype(np.float32)


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (21, 13)])
def test_denoising_any_size_is_the_closed_form(size):
    """Where pixels are independent the minimum-error estimate is y times var / (var + sigma^2), of tiles as well."""
    y = picture(*size)
    restored = restore(PRIOR, y, Request(degraded=True, sigma=0.3, lookaheads=(0.0, 1.0)))
    assert restored.images.shape == (2, 1, *size, 1)
    np.testing.assert_allclose(restored.images[0, 0], y * 0.25 / (0.25 + 0.09), atol=1e-5)
    np.testing.assert_allclose(restored.images[1, 0], y * np.sqrt(0.25 / (0.25 + 0.09)), atol=1e-5)
    assert restored.facts["tiles"] == {8: 1, 3: 1, 21: 5 * 3}[size[0]]


@pytest.mark.slow
def test_what_is_hidden_is_filled_in_and_what_is_seen_is_kept():
    x = 0.5 * picture(10, 8)
    request = Request(operator="box_inpainting", parameters={"size": 4}, sigma=0.01, lookaheads=(1.0,), num_samples=16)
    restored = restore(PRIOR, x, request)
    seen = np.ones_like(x, bool)
    seen[3:7, 2:6] = False
    assert np.abs(restored.images[0] - x)[:, seen].max() < 0.06
    assert restored.images[0][:, ~seen].mean() == pytest.approx(0, abs=0.1)  # as the prior has it
    assert restored.images[0][:, ~seen].std() == pytest.approx(0.5, rel=0.15)
    assert len(restored.facts["psnr_of_samples"][0]) == 16
    error = np.square(restored.images[0].mean(0).clip(-1, 1) - x).mean()
    assert restored.facts["psnr"] == [pytest.approx(10 * np.log10(4 / error), abs=1e-4)]
    assert restored.facts["psnr"][0] > max(restored.facts["psnr_of_samples"][0])
    assert restored.facts["notes"] == ["padded from 10x8 to 12x8, and cropped again"]
    again = restore(PRIOR, x, request)
    np.testing.assert_array_equal(again.images, restored.images)


def test_colour_and_gray_meet():
    facts = restore(PRIOR, picture(8, 8, 3), Request(degraded=True, sigma=0.1)).facts
    assert "converted to gray" in facts["notes"][0]
    restored = restore(COLOUR, picture(8, 8), Request(degraded=True, sigma=0.1))
    assert restored.images.shape[-1] == 3
    request = Request(operator="colorization", degraded=True, sigma=0.05, steps=10)
    assert restore(COLOUR, picture(8, 8), request).images.shape[-1] == 3
    with pytest.raises(InputError, match="colorization: needs 3 channels"):
        restore(PRIOR, picture(8, 8), Request(operator="colorization"))


@pytest.mark.slow
def test_a_small_picture_is_enlarged_and_an_odd_one_cropped():
    request = Request(operator="super_resolution", parameters={"factor": 2}, degraded=True, sigma=0.05, steps=5)
    assert restore(PRIOR, picture(6, 5), request).images.shape == (1, 1, 12, 10, 1)
    restored = restore(PRIOR, picture(9, 7), Request(operator="decimation", parameters={"factor": 2}, steps=5))
    assert restored.clean.shape == (8, 6, 1)
    assert restored.facts["notes"][0] == "cropped from 9x7 to 8x6, which 2 divides"


@pytest.mark.slow
def test_an_operator_of_your_own_measures_pictures_of_its_size():
    rows = operators.from_function(lambda x: x[::2, :, 0], (12, 9, 1), linear=True, name="even_rows")
    x = 0.5 * picture(12, 9)
    request = Request(operator=rows, sigma=0.01, num_samples=8)
    restored = restore(PRIOR, x, request)
    assert restored.measured.shape == (6, 9)
    assert restored.facts["tiles"] == 2 * 2
    assert np.abs(restored.images - x)[..., ::2, :, :].max() < 0.06
    assert restored.images[..., 1::2, :, :].mean() == pytest.approx(0, abs=0.1)  # as the prior has it
    again = restore(PRIOR, restored.measured, Request(operator=rows, degraded=True, sigma=0.01, num_samples=8))
    np.testing.assert_allclose(again.images, restored.images, atol=1e-6)
    named = operators.from_function(lambda x: x[::2], (12, 9, 1), linear=True, name="my_inpainting")
    assert restore(PRIOR, x[::2], Request(operator=named, degraded=True, steps=2)).images.shape[2:] == (12, 9, 1)
    for given, changes, message in [
        (picture(8, 8), {}, "even_rows takes images of shape (12, 9, 1), got (8, 8, 1)"),
        (picture(8, 8), dict(degraded=True), "y has shape (8, 8, 1) but even_rows"),
        (x, dict(parameters={"size": 3}), "even_rows has its parameters already"),
    ]:
        with pytest.raises(InputError) as refused:
            restore(PRIOR, given, Request(operator=rows, **changes))
        assert message in str(refused.value)
    with pytest.raises(InputError, match="the prior's have 3 channels"):
        restore(COLOUR, x, request)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 1), np.uint8), "a picture of uint8: give finite floating-point numbers"),
        (np.full((8, 8, 1), np.nan), "give finite floating-point numbers"),
        (np.zeros((8, 8, 4)), "a picture of shape (8, 8, 4): give [height, width, 1 or 3]"),
        (np.zeros((0, 8)), "a picture of shape (0, 8, 1)"),
        (np.full((8, 8, 1), 200.0), "a picture of values up to 200: give [-1, 1]"),
    ],
)
def test_arrays_that_are_no_pictures_are_one_line(given, message):
    with pytest.raises(InputError) as refused:
        restore(PRIOR, given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_gray_array_needs_no_channels():
    np.testing.assert_array_equal(restore(PRIOR, picture(8, 8)[..., 0]).images, restore(PRIOR, picture(8, 8)).images)


def test_noise_is_estimated_where_it_is_not_told():
    rng = np.random.default_rng(0)
    smooth = np.linspace(-0.5, 0.5, 64)[:, None, None] * np.ones((64, 64, 1))
    for sigma in (0.05, 0.2):
        noisy = (smooth + sigma * rng.standard_normal(smooth.shape)).astype(np.float32)
        assert estimate_noise(noisy) == pytest.approx(sigma, rel=0.1)
        facts = restore(PRIOR, noisy, Request(degraded=True)).facts
        assert facts["sigma_estimated"]
        assert facts["sigma"] == pytest.approx(sigma, rel=0.1)
    assert estimate_noise(np.zeros((1, 1, 1), np.float32)) == MIN_SIGMA
    facts = restore(PRIOR, np.clip(noisy - 0.9, -1, 1), Request(degraded=True)).facts
    assert facts["sigma"] < 0.17  # of 0.2
    assert re.search(r"\d\d% of it is black or white, where noise is cut off", facts["notes"][-1])


def test_noise_of_colours_is_averaged_where_they_become_gray():
    gray = restore(PRIOR, picture(8, 8, 3), Request(degraded=True, sigma=0.3)).facts["sigma"]
    noise = np.random.default_rng(0).normal(0, 0.3, (100, 100, 3)) @ [0.299, 0.587, 0.114]
    assert gray == pytest.approx(noise.std(), rel=0.03)


def test_plug_and_play_asks_for_no_noise_and_what_is_hidden_is_no_measurement():
    request = Request(operator="box_inpainting", parameters={"size": 4}, degraded=True, steps=10)
    black, gray = 0.5 * picture(8, 8), 0.5 * picture(8, 8)
    black[2:6, 2:6], gray[2:6, 2:6] = -1, 0
    plain = restore(PRIOR, black, request)
    assert "sigma" not in plain.facts
    assert plain.facts["notes"] == []
    told = restore(PRIOR, gray, dataclasses.replace(request, sigma=0.3))
    assert "--sigma=0.3 changes nothing" in told.facts["notes"][0]
    np.testing.assert_allclose(told.images, plain.images, atol=1e-6)
    np.testing.assert_allclose(told.facts["data_residual"], plain.facts["data_residual"], atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(operator="denoise"), "--operator=denoise, did you mean 'denoising'"),
        (Request(lookaheads=(1.2,)), "--lookahead=1.2: must be from 0"),
        (Request(sigma=-1.0), "--sigma=-1: must be positive"),
        (Request(gain=0.0), "--gain=0: must be positive"),
        (Request(lookaheads=()), "lookahead (): must be numbers, in a tuple"),
        (Request(num_samples=2), "--num_samples=2: denoising is deterministic"),
        (Request(operator="hdr", steps=0), "--steps=0"),
        (Request(operator="decimation", parameters={"factor": "two"}), "decimation: factor='two'"),
        (
            Request(num_samples=10**9, operator="hdr"),
            "--num_samples=1000000000 --steps=100: both must be from 1 to 100000",
        ),
        (Request(operator="hdr", gain=float("nan")), "--gain=nan: must be positive"),
        (Request(seed=2**64), "--seed=18446744073709551616: must be a number of 64 bits"),
        (Request(operator="decimation"), "decimation: missing parameter 'factor'"),
        (Request(operator="decimation", parameters={"factor": 0}), "factor=0 must be a positive integer"),
        (
            Request(operator="decimation", parameters={"factor": 10**6}, degraded=True),
            "--operator_arg=factor=1000000: makes 8000000x8000000, more than",
        ),
        (Request(operator="phase_retrieval", degraded=True), "--already_degraded: what phase_retrieval measures"),
        (
            Request(operator="random_inpainting", parameters={"ratio": 0.5}, degraded=True),
            "random_inpainting would be drawn anew: tell it, --operator_arg=mask=FILE with --operator=brush_inpainting",
        ),
        (
            Request(operator="motion_blur", degraded=True),
            "motion_blur would be drawn anew: tell it, --operator_arg=kernel",
        ),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(request_, message):
    with pytest.raises(InputError) as refused:
        restore(PRIOR, picture(8, 8), request_)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lookaheads", 0.5, "lookahead 0.5: must be numbers, in a tuple"),
        ("num_samples", 2.5, "num_samples 2.5: must be a whole number"),
        ("sigma", "x", "sigma ('x',): must be numbers"),
        ("parameters", None, "parameters None: must be a dictionary"),
        ("operator", lambda x: x, "an operator of your own: make it with operators.from_function"),
    ],
)
def test_requests_of_the_wrong_kind_are_one_line(name, value, message):
    request = Request()
    object.__setattr__(request, name, value)  # no type is checked outside the tests
    with pytest.raises(InputError) as refused:
        restore(PRIOR, picture(8, 8), request)
    assert message in str(refused.value)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def load(path):
    with Image.open(path) as image:
        return np.asarray(image, float)


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
    done, faults = image_files.restore_files(PRIOR, request, source, output, {"checkpoint": "exact"})
    assert done == 5
    assert len(faults) == 2
    assert any("broken.png: damaged" in line for line in faults)
    assert any("an empty file" in line for line in faults)
    made = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    stems = ["digit_png", "digit_bmp", "deep", "palette", "sub/photo"]
    endings = ["_r0.00.png", "_r1.00.png", "_measured.png", "_sheet.png", ".json"]
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
def test_several_draws_leave_their_mean_and_spread(tmp_path):
    save(tmp_path / "x.png", np.full((8, 8), 90, np.uint8))
    request = Request(operator="box_inpainting", parameters={"size": 4}, num_samples=4, steps=20, lookaheads=(1.0,))
    image_files.restore_files(PRIOR, request, tmp_path / "x.png", tmp_path / "out", {})
    spread = load(tmp_path / "out" / "x_std.png")
    assert spread[2:6, 2:6].mean() > 3 * spread[:2].mean()
    assert spread.max() == 255
    (white,) = json.loads((tmp_path / "out" / "x.json").read_text())["white_of_std"]
    assert white * spread[2:6, 2:6].mean() / 255 == pytest.approx(0.5, rel=0.4)  # of the prior, from 4 draws
    assert (tmp_path / "out" / "x.png").exists()


def test_folders_that_cannot_be_used(tmp_path):
    for source, output, message in [
        (tmp_path / "nowhere", tmp_path / "out", "does not exist"),
        (tmp_path, tmp_path / "out", "lies inside"),
        (tmp_path, tmp_path.parent / "out", "holds no pictures"),
    ]:
        with pytest.raises(InputError, match=message):
            image_files.restore_files(PRIOR, Request(), source, output, {})
    assert list(tmp_path.iterdir()) == []
    photo = tmp_path / "photo.png"
    save(photo, np.full((8, 8), 90, np.uint8))
    before = photo.read_bytes()
    for output, message in [(tmp_path, "is the folder of --input"), (photo, "is a file: name a folder")]:
        with pytest.raises(InputError, match=message):
            image_files.restore_files(PRIOR, Request(), photo, output, {})
    assert list(tmp_path.iterdir()) == [photo]
    assert photo.read_bytes() == before


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
    done, faults = image_files.restore_files(PRIOR, Request(degraded=True, sigma=0.1), source, output, {})
    assert done == 1
    assert sum("leads out of --output" in line for line in faults) == 2
    assert sum("out/plain.png is there already, and not from restoring" in line for line in faults) == 1
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
    done, faults = image_files.restore_files(PRIOR, request, source, originals, {})
    assert (done, len(faults)) == (0, 2)
    assert all("is there already, and not from restoring" in line for line in faults)
    assert {path.name for path in originals.rglob("*")} == {"a.png", "sub", "c.png"}
    for _ in range(2):
        assert image_files.restore_files(PRIOR, request, source, tmp_path / "out", {}) == (2, [])
    (tmp_path / "out" / "a.json").write_text("{}")
    assert image_files.restore_files(PRIOR, request, source, tmp_path / "out", {})[0] == 1


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
        done, faults = image_files.restore_files(PRIOR, request, tmp_path / "in", output, {})
        assert (done, faults) == (len(wanted), [])
        told = [json.loads(path.read_text())["input"] for path in output.glob("*.json")]
        assert sorted(told) == sorted(wanted)
        each = len(request.lookaheads) * (1 + (request.num_samples > 1)) + 2 + (len(request.lookaheads) > 1)
        assert len(list(output.iterdir())) == each * len(wanted)
        assert len({path.name.casefold() for path in output.iterdir()}) == each * len(wanted)
    done, faults = image_files.restore_files(
        PRIOR, Request(degraded=True, sigma=0.1), tmp_path / "in" / "...png", output, {}
    )
    assert (done, faults) == (1, [])
    assert (output / "picture.json").exists()
