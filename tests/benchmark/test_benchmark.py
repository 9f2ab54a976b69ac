"""The benchmark as a whole: pictures, noise, records, resuming, tables, and what is refused."""

import csv
import dataclasses
import itertools
import json
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from configs import photos
from fmdp import main
from fmdp.benchmark.measure import Row
from fmdp.benchmark.pictures import (
    GRAY_IN_COLOUR,
    PictureFile,
    detail_corner,
    draw_noise,
    find_pictures,
    read_clean,
)
from fmdp.benchmark.published import PICTURES, PUBLISHED, published_psnr
from fmdp.benchmark.records import Record, Records
from fmdp.benchmark.rivals import RIVALS
from fmdp.benchmark.summary import Means, Result, SetResult, summarise
from fmdp.cli import benchmark
from fmdp.config.validation import validate
from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir
from fmdp.pretrained import prior as prior_files
from fmdp.reporting.benchmark_figures import draw_planes
from tests.reporting.test_planes import drawn
from tests.support.tiny_unet import TINY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    prior_files.save(folder, TINY)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    """Three pictures in colour and one in gray, which is smaller than a tile, of the set Kodak24."""
    root = tmp_path / "Kodak24"
    root.mkdir()
    random = np.random.default_rng(0)
    for name, shape in (("a", (20, 33, 3)), ("b", (17, 40, 3)), ("c", (20, 33, 3)), ("d", (5, 6))):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(root / f"{name}.png")
    return root


def configure(folders, **changes):
    config = photos.get_config("smoke")
    config.evaluate.update(lpips="", dists="")
    config.benchmark.update(folders=str(folders), sigmas=(25.0,), lookaheads=(0.0, 0.5, 1.0), perceptual_every=2)
    config.benchmark.update({"rivals": "wavelets"} | changes)
    validate(config)
    return config


def run(config, workdir, checkpoint):
    benchmark.run_benchmark(config, RunDir.open(str(workdir)), checkpoint)
    return (workdir / "benchmark.csv").read_bytes()


@pytest.mark.slow
def test_a_benchmark_leaves_its_results_and_goes_on_where_it_stopped(checkpoint, folder, tmp_path, capsys, monkeypatch):
    (folder / "e.png").write_bytes(b"no picture")
    at_once = run(configure(folder), tmp_path / "one", checkpoint)
    out = capsys.readouterr().out
    assert "not measured: lpips_alex needs config.evaluate.lpips=auto; dists needs config.evaluate.dists=auto" in out
    assert "Kodak24/d.png" in out
    assert f"; {GRAY_IN_COLOUR}; padded from 5x6 to 16x16, and cropped again" in out
    assert "e.png: not an image: it is left out" in out
    rows = list(csv.DictReader(at_once.decode().splitlines()))
    assert [row["picture"] for row in rows] == ["a.png"] * 8 + ["b.png"] * 3 + ["c.png"] * 8 + ["d.png"] * 3
    assert {row["set"] for row in rows} == {"Kodak24"}
    assert {row["ssim"] == "" for row in rows if row["picture"] == "b.png"} == {True}
    # in pieces, and with pictures that were there before
    run(configure(folder, max_pictures=1), tmp_path / "two", checkpoint)
    run(configure(folder, max_pictures=3), tmp_path / "two", checkpoint)
    (tmp_path / "two" / "benchmark" / "Kodak24" / "c.png.json").write_text("{")  # cut off
    capsys.readouterr()
    measured = []
    original = benchmark.measure_picture
    monkeypatch.setattr(benchmark, "measure_picture", lambda *given: measured.append(given) or original(*given))
    assert run(configure(folder), tmp_path / "two", checkpoint) == at_once
    assert len(measured) == 2  # c.png and d.png
    # a changed picture is measured again
    Image.open(folder / "b.png").transpose(Image.Transpose.ROTATE_180).save(folder / "b.png")
    assert run(configure(folder), tmp_path / "two", checkpoint) != at_once
    assert len(measured) == 3
    results = json.loads((tmp_path / "one" / "benchmark.json").read_text())
    (of,) = results["sets"]
    assert (of["pictures"], of["in_full"], of["left_out"]) == (4, 2, {"e.png": "not an image"})
    best = of["results"][0]
    psnr = [float(row["psnr"]) for row in rows if (row["method"], row["lookahead"]) == ("lookahead", "0.0")]
    assert (best["method"], best["lookahead"]) == ("lookahead", 0)
    assert best["every"]["psnr"] == pytest.approx(np.mean(psnr))
    assert best["every"]["psnr_sem"] == pytest.approx(np.std(psnr, ddof=1) / 2)
    assert best["full"]["psnr"] == pytest.approx((psnr[0] + psnr[2]) / 2)
    assert results["made"]["config"]["benchmark"]["sigmas"] == [25.0]
    text = (tmp_path / "one" / "benchmark.md").read_text()
    assert "| SwinIR, published | 32.89 |" in text
    assert f"| flow map, t = s | {np.mean(psnr):.2f} |" in text
    assert f"| flow map, r = 0 (t = s) | {(psnr[0] + psnr[2]) / 2:.2f} |  | " in text
    changes = np.array([float(rows[2]["psnr"]) - psnr[0], float(rows[13]["psnr"]) - psnr[2]])
    assert f" | {changes.mean():+.2f} ± {np.ptp(changes) / 2:.2f} | " in text
    offset = np.mean(psnr) - (psnr[0] + psnr[2]) / 2
    assert f"the mean PSNR over all is {offset:+.2f} dB relative to that over these 2, by sigma." in text
    assert "wavelets: sym8, 3 levels, BayesShrink, soft thresholds, in YCbCr, one pass (scikit-image 0." in text
    assert "in tiles of 16x16 pixels with margins of 4; products in default precision on cpu" in text
    assert "so they do not compare with 4 of 24 pictures of Kodak24." in text
    assert (tmp_path / "one" / "benchmark_Kodak24_25.png").stat().st_size > 10_000
    assert not (tmp_path / "one" / "benchmark.png").exists()
    with pytest.raises(InputError, match=r"holds pictures measured with sigmas \[25.0\], not \[50.0\]: name another"):
        run(configure(folder, sigmas=(50.0,)), tmp_path / "two", checkpoint)


def test_noise_depends_on_seed_and_name_alone():
    first = draw_noise(0, "b/c.png", (4, 5, 3))
    np.testing.assert_array_equal(draw_noise(0, "b/c.jpg", (4, 5, 3)), first)
    assert first.dtype == np.float32
    for other in (draw_noise(1, "b/c.png", (4, 5, 3)), draw_noise(0, "b/d.png", (4, 5, 3))):
        assert abs(np.corrcoef(other.ravel(), first.ravel())[0, 1]) < 0.5
    many = draw_noise(0, "x", (300, 300, 3))
    assert (many.mean(), many.std()) == pytest.approx((0, 1), abs=0.01)


def test_pictures_keep_their_place_when_few_are_measured(folder):
    every = find_pictures(f"{folder},")
    assert [(picture.name, picture.place) for picture in every] == [
        ("a.png", 0),
        ("b.png", 1),
        ("c.png", 2),
        ("d.png", 3),
    ]
    assert find_pictures(str(folder), 2) == every[:2]
    gray, note = read_clean(folder / "d.png", 3)
    assert (gray.shape, note) == ((5, 6, 3), GRAY_IN_COLOUR)
    assert (gray == gray[..., :1]).all()
    Image.fromarray(60 * np.arange(64, dtype=np.uint16).reshape(8, 8)).save(folder / "e.png")
    _, note = read_clean(folder / "e.png", 1)
    assert note == "values from 0 to 3780 of uint16: white is taken as 4095"
    (folder / "e.png").unlink()
    colour, note = read_clean(folder / "a.png", 1)
    assert colour.shape == (20, 33, 1)
    assert "measured in gray" in note


def test_every_picture_that_can_be_restored_is_found_and_read(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)
    Image.fromarray(pixels).save(folder / "a.tif")
    np.save(folder / "b.npy", pixels)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(folder / "c.tiff")
    np.save(folder / "d.npy", pixels * 20.0)
    found = find_pictures(str(folder))
    assert [picture.name for picture in found] == ["a.tif", "b.npy", "c.tiff", "d.npy"]
    for picture in found[:3]:
        np.testing.assert_allclose(read_clean(picture.path, 1)[0][..., 0], pixels / 127.5 - 1, atol=1e-6)
    with pytest.raises(UnusableError) as refused:
        read_clean(found[3].path, 1)
    wanted = "are not floats from -1 to 1: the benchmark takes no range, so save it as a picture of 8 or 16 bits"
    assert str(refused.value).endswith(wanted)


def test_what_no_picture_can_be_measured_with_is_one_line(checkpoint, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    (tmp_path / "x" / "Kodak24").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "x" / "Kodak24" / "a.png")
    cases = [
        ({"folders": ""}, "config.benchmark.folders = '': name folders of test pictures, separated by commas"),
        ({"folders": f"{tmp_path}/nowhere"}, "nowhere': does not exist: name folders"),
        ({"folders": f"{folder}/a.png"}, "a.png': is no folder: name folders"),
        ({"folders": f"{tmp_path}/empty"}, "empty': holds no pictures: files of ."),
        ({"folders": f"{tmp_path}/bad"}, "bad': none of the pictures can be used"),
        ({"folders": f"{folder},{tmp_path}/x/Kodak24"}, "two folders are called 'Kodak24'"),
        ({"tile": 15}, "config.benchmark.tile = 15: this prior takes multiples of 2: set 16"),
        ({"memory_gb": 1e-6}, "config.benchmark.memory_gb = 1e-06: one tile of 16x16"),
        ({"rivals": "bm4d"}, "config.benchmark.rivals: unknown denoiser 'bm4d', did you mean 'bm3d'"),
    ]
    for number, (changes, message) in enumerate(cases):
        with pytest.raises(InputError) as refused:
            run(configure(**{"folders": folder} | changes), tmp_path / f"work{number}", checkpoint)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"--checkpoint is missing, and .* is no run: name a prior"):
        run(configure(folder), tmp_path / "work", None)


def test_a_prior_of_points_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "load", lambda path: types.SimpleNamespace(image_shape=(1, 1, 2)))
    with pytest.raises(InputError, match="a prior of 2 channels cannot be measured on pictures"):
        run(configure(folder), tmp_path / "work", "points")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sigmas", ()),
        ("sigmas", (0.0, 25.0)),
        ("sigmas", (151.0,)),
        ("sigmas", (25.0, 25)),
        ("lookaheads", (0.0, 0.5)),
        ("lookaheads", (0.0, 0.5, 0.5, 1.0)),
        ("lookaheads", ()),
        ("perceptual_every", 0),
        ("max_pictures", -1),
        ("seed", -1),
        ("tile", -8),
        ("memory_gb", -1.0),
    ],
)
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(InputError) as refused:
        configure("x", **{key: value})
    assert f"config.benchmark.{key} = {value!r}: must " in str(refused.value)


def test_the_flags_of_restoring_but_the_checkpoint_are_refused():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    main.define_flags()  # else flagsaver would forget those that are first defined within it
    with flagsaver.flagsaver():
        flags.FLAGS["checkpoint"].present = flags.FLAGS["sigma"].present = 1
        assert main.inapplicable_flags("benchmark") == ["sigma"]
        assert main.inapplicable_flags("evaluate") == ["checkpoint", "sigma"]


def test_means_and_spreads():
    def record(psnr, **more):
        rows = [Row(sigma=15.0, method="lookahead", lookahead=0.0, measures={"psnr": psnr} | more)]
        rows += [Row(sigma=15.0, method="wavelets", measures={"psnr": psnr - 2})] if more else []
        return Record(sha256="", in_full=bool(more), size=[1, 1], seconds=1.0, backend="cpu", rows=rows)

    pictures = [PictureFile("set", name, None, index) for index, name in enumerate("abc")]
    records = dict(zip(pictures, [record(30.0, ssim=0.5), record(33.0), record(36.0, ssim=0.7)], strict=True))
    (of,) = summarise(records, {})
    best, wavelets = of.results
    assert (best.every.pictures, best.full.pictures, wavelets.every, wavelets.full.pictures) == (3, 2, None, 2)
    assert best.every.measures == pytest.approx({"psnr": 33, "psnr_std": 3, "psnr_sem": np.sqrt(3)})
    assert wavelets.change.measures == {"psnr": -2, "psnr_std": 0, "psnr_sem": 0}
    assert best.change.measures["ssim_sem"] == 0
    assert best.full.measures["ssim"] == pytest.approx(0.6)
    assert best.full.measures["ssim_sem"] == pytest.approx(0.1)
    failed = dataclasses.replace(records[pictures[0]], rows=records[pictures[0]].rows[:1])
    (of,) = summarise({**records, pictures[0]: failed}, {})
    assert of.results[1].full.pictures == 1
    assert of.results[1].change.measures == {"psnr": -2}  # from the same picture
    (one,) = summarise({pictures[1]: record(33.0)}, {})
    assert one.results[0].every.measures == {"psnr": 33.0}
    assert one.results[0].full is None


def test_the_plane_shows_what_has_learned_distances(tmp_path):
    def result(method, psnr, lpips, lookahead=None):
        full = Means(pictures=2, measures={"psnr": psnr, "lpips_alex": lpips})
        return Result(sigma=15.0, method=method, lookahead=lookahead, full=full)

    results = [result("lookahead", 33.0 - r, 0.2 - r / 10, r) for r in (0.0, 0.5, 1.0)]
    results += [result("chord", 32.5, 0.17, 0.5), result("noisy", 24.0, 0.5)]
    results += [result(name, 32.0 - k, 0.12 + k) for k, name in enumerate(RIVALS)]
    of = SetResult(name="a$b_c", pictures=8, in_full=2, median_seconds=1.0, results=results)
    (axis, *_), (legend,) = (found := drawn(draw_planes, tmp_path / "plane.png", [of])).axes, found.legends
    assert [text.get_text() for text in axis.texts] == [
        "0",
        "0.5",
        "1",
        "outside:\nwavelets: 31.00 dB, 1.120\nBM3D: 30.00 dB, 2.120",
    ]
    shown = ["flow map (one evaluation)", "chord (two evaluations)", "non-local means"]
    assert [text.get_text() for text in legend.get_texts()] == shown
    assert axis.get_ylim()[1] < 0.3
    assert not draw_planes(tmp_path / "none.png", [dataclasses.replace(of, results=[])])
    assert not (tmp_path / "none.png").exists()


def test_records_of_another_file_or_extent_are_not_used(tmp_path):
    picture = PictureFile("set", "sub/a.png", None, 0)
    records = Records.open(tmp_path / "records", {"seed": 0, "lookaheads": (0.0, 1.0)})
    record = Record(
        sha256="ab", in_full=True, size=[2, 3], seconds=1.5, backend="cpu", notes=["small"],
        rows=[Row(sigma=15.0, method="noisy", measures={"psnr": 24.6})],
    )  # fmt: skip
    records.write(picture, record, {"clean": np.zeros((2, 3), np.uint8)})
    records = Records.open(tmp_path / "records", {"seed": 0, "lookaheads": (0.0, 1.0)})
    assert records.read(picture, "ab", True) == record
    assert records.read(picture, "cd", True) is None
    assert records.read(picture, "ab", False) == record
    records.write(picture, dataclasses.replace(record, in_full=False), {})
    assert records.read(picture, "ab", True) is None
    assert records.crops(picture)["clean"].shape == (2, 3)
    with pytest.raises(InputError, match="holds pictures measured with seed 0, not 1: name another --workdir"):
        Records.open(tmp_path / "records", {"seed": 1, "lookaheads": (0.0, 1.0)})


def test_published_numbers_are_of_three_sets_and_levels():
    assert published_psnr("CBSD68", 15.0)["CBM3D"] == 33.52
    assert published_psnr("McMaster18", 50)["SwinIR"] == 30.22
    assert published_psnr("Kodak24", 20) == published_psnr("Set5", 15) == {}
    for method in PUBLISHED.values():
        assert set(method.psnr) == set(PICTURES)
        assert all(low > high for of in method.psnr.values() for low, high in itertools.pairwise(of))


def test_the_crop_has_most_detail():
    image = np.zeros((64, 96, 3), np.float32)
    image[32:48, 64:80] = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3))
    assert detail_corner(image, 16) == (32, 64)
    assert detail_corner(image[:1, :1], 16) == (0, 0)
