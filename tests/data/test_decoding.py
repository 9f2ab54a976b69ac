import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.data import folder
from fmdp.data.decoding import ImagePreprocessor, UnusableError
from fmdp.errors import InputError
from fmdp.training import loop

ROOT = pathlib.Path(__file__).parents[2]
FRAME = ImagePreprocessor(size=16, channels=3, max_pixels=10_000)


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def picture(height=20, width=24, seed=0):
    return Image.fromarray(noise(height, width, seed=seed))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(image, frame=FRAME, kind="PNG", **options):
    return frame.decode(io.BytesIO(encoded(image, kind, **options)))


def settings(path, **changes):
    """config.data of pictures at a path."""
    c = default_config().data
    c.update(dict(path=str(path), size=16, test_share=0.25) | changes)
    return c


@pytest.fixture
def mixed(tmp_path):
    """A folder of pictures of every kind, among them some that cannot be used."""
    root = tmp_path / "mine"
    (root / "deeper" / "still").mkdir(parents=True)
    for i in range(8):
        picture(20 + i, 40 - 2 * i, seed=i).save(root / f"{i}.jpg")
    picture().convert("L").save(root / "gray.png")
    picture().convert("P").save(root / "palette.gif")
    picture().convert("RGBA").save(root / "deeper" / "alpha.png")
    picture().convert("CMYK").save(root / "deeper" / "still" / "cmyk.JPEG")
    (root / "broken.png").write_bytes(b"not a picture at all")
    (root / "empty.jpg").touch()
    (root / "notes.txt").write_text("not looked at")
    (root / "._0.jpg").write_bytes(b"not looked at, either")
    Image.new("L", (200, 200)).save(root / "vast.png")
    picture(15, 30).save(root / "small.bmp")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "deeper" / "up").symlink_to(root, target_is_directory=True)
    return root


def test_the_middle_square_is_taken_and_resized():
    image = picture(16, 40)
    np.testing.assert_array_equal(decode(image), np.asarray(image)[:, 12:28])
    wanted = picture(64, 96).crop((16, 0, 80, 64)).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode(picture(64, 96)), wanted)


def test_every_kind_of_pixels_becomes_colour_or_gray():
    colour = picture(16, 16)
    gray = ImagePreprocessor(size=16, channels=1, max_pixels=10_000)
    np.testing.assert_array_equal(decode(colour, gray)[..., 0], colour.convert("L"))
    np.testing.assert_array_equal(decode(colour.convert("L")), np.asarray(colour.convert("L"))[..., None].repeat(3, -1))
    np.testing.assert_array_equal(decode(colour.quantize(256)), colour.quantize(256).convert("RGB"))
    sixteen = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(decode(Image.fromarray(sixteen), gray)[..., 0], np.arange(256).reshape(16, 16))
    with pytest.raises(UnusableError, match="floating-point"):
        decode(Image.fromarray(np.zeros((16, 16), np.float32)), kind="TIFF")


def test_transparent_parts_are_white():
    image = picture(16, 16).convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[0], [255]], 8, axis=0).astype(np.uint8).repeat(16, 1)))
    pixels = decode(image)
    assert (pixels[:8] == 255).all()
    np.testing.assert_array_equal(pixels[8:], np.asarray(image)[8:, :, :3])


def test_pictures_are_turned_upright():
    image = picture(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    np.testing.assert_array_equal(decode(image, exif=exif), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x89PNG but no more than that", "not an image"),
        (encoded(picture(15, 99)), "15x99 is smaller than size=16"),
        (encoded(Image.new("1", (101, 100))), "100x101 are more than max_pixels=10,000"),
        (encoded(Image.new("1", (9_750, 9_750))), "9750x9750 are more than max_pixels=10,000"),
        (encoded(Image.new("1", (20_000, 20_000))), "20000x20000 are more than max_pixels=10,000"),
        (encoded(picture())[:-200], "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "not an image"),
    ],
)
def test_what_cannot_be_used_says_why(content, reason):
    with pytest.raises(UnusableError, match=reason):
        FRAME.decode(io.BytesIO(content))
    if reason != "damaged":
        with pytest.raises(UnusableError, match=reason):
            FRAME.check(io.BytesIO(content))


def test_importing_it_leaves_the_users_own_pillow_alone(tmp_path):
    """Pillow warns about an image of 95 megapixels and opens it, also in a program that imports fmdp."""
    vast = tmp_path / "vast.png"
    Image.new("1", (10_000, 9_500)).save(vast)
    program = f"""
import warnings
from PIL import Image

limit = Image.MAX_IMAGE_PIXELS
from fmdp.data.decoding import ImagePreprocessor, UnusableError
from fmdp.io.archives import MAX_PIXELS

with open({str(vast)!r}, "rb") as file, warnings.catch_warnings(record=True) as ours:
    warnings.simplefilter("always")
    try:
        ImagePreprocessor(size=1, channels=1, max_pixels=MAX_PIXELS).check(file)
    except UnusableError as error:
        assert "9500x10000 are more than max_pixels=89,478,485 pixels" in str(error)
    else:
        raise AssertionError("not refused")
assert not ours, ours
assert not [entry for entry in warnings.filters if "PIL" in str(entry)]  # scipy and numpy have theirs
assert Image.MAX_IMAGE_PIXELS == limit
with warnings.catch_warnings(record=True) as theirs:
    warnings.simplefilter("default")
    Image.open({str(vast)!r}).close()
assert [warning.category for warning in theirs] == [Image.DecompressionBombWarning]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_lower_limit_of_the_users_own_is_no_crash(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnusableError, match="damaged: Image size"):
        decode(picture(20, 24))


@pytest.mark.slow
def test_a_mixed_folder_trains_and_names_what_it_leaves_out(mixed, tmp_path, caplog):
    c = default_config()
    c.name = "mixed"
    c.data.update(settings(mixed, max_pixels=10_000, flip=True))
    c.network = dict(name="mlp", width=8, blocks=1)
    c.train.update(steps=2, batch_size=8)
    split = data.load_split(c.data)
    assert (len(split.train), len(split.test)) == (10, 2)
    assert [line.split(":")[0] for line in split.left_out] == [
        "'broken.png'", "'empty.jpg'", "'loop.png'", "'small.bmp'", "'vast.png'",
    ]  # fmt: skip
    assert len(caplog.records) == 1
    assert "5 of 17 images left out: 'broken.png': not an image; 'empty.jpg'" in caplog.text
    assert "200x200 are more than max_pixels=10,000 pixels (config.data.max_pixels)" in caplog.text
    _, progress = loop.fit(c, split.train, tmp_path / "run")
    assert progress["steps"] == 2
    with pytest.raises(InputError, match=r"'broken.png': not an image; remove it"):
        data.load_split(settings(mixed, strict=True))


def test_a_picture_that_turns_out_damaged_is_named_and_another_stands_in(tmp_path, caplog):
    for i in range(8):
        picture(seed=i).save(tmp_path / f"{i}.png")
    whole = data.load_split(settings(tmp_path)).train
    name = whole.names[2]
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
    for memory in (0.0, 1.0):
        cut = data.load_split(settings(tmp_path, memory_gb=memory)).train
        assert cut.kept == (memory > 0)
        for _ in range(2):
            np.testing.assert_array_equal(cut[:], whole[np.array([0, 1, 3, 3, 4, 5])])
    assert sum(f"'{name}': damaged" in record.getMessage() for record in caplog.records) == 1
    with pytest.raises(InputError, match=f"'{name}': damaged"):
        data.load_split(settings(tmp_path, strict=True))


def test_kept_pictures_are_decoded_once_and_only_when_asked_for(tmp_path):
    for i in range(8):
        picture(seed=i).save(tmp_path / f"{i}.png")
    read, kept = (data.load_split(settings(tmp_path, memory_gb=memory)).train for memory in (0.0, 1.0))
    expected = read[:]
    for index in (slice(0, 2), np.array([3, 1, 3]), slice(None)):
        np.testing.assert_array_equal(kept[index], expected[index])
    for i in range(8):
        (tmp_path / f"{i}.png").unlink()
    np.testing.assert_array_equal(kept[:], expected)
    with pytest.raises(InputError, match="none of 6 images can be decoded"):
        read[:1]


def test_split_of_a_folder_is_by_class_and_its_hash_follows_the_names(tmp_path):
    for name, count in (("a", 8), ("b", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            picture(seed=i).save(tmp_path / name / f"{i}.png")
    first, again = (data.load_split(settings(tmp_path)) for _ in range(2))
    assert sorted(name[0] for name in first.held_out) == ["a", "a", "b"]
    assert sorted(first.test_labels) == [0, 0, 1]
    assert (first.hash, first.held_out) == (again.hash, again.held_out)
    np.testing.assert_array_equal(first.test, again.test)
    (tmp_path / "b" / "9.png").write_bytes((tmp_path / "b" / "0.png").read_bytes())
    assert data.load_split(settings(tmp_path)).hash != first.hash


def test_a_folder_for_every_picture_is_no_hindrance(tmp_path):
    for i in range(8):
        (tmp_path / str(i)).mkdir()
        picture(seed=i).save(tmp_path / str(i) / "face.png")
    assert len(data.load_split(settings(tmp_path)).test) == 2


def test_official_folders_are_the_split(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for kind in ("cat", "dog"):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(count):
                picture(seed=i).save(tmp_path / part / kind / f"{i}.jpg")
    (tmp_path / "beside.jpg").write_bytes((tmp_path / "train" / "cat" / "0.jpg").read_bytes())
    split = data.load_split(settings(tmp_path))
    assert list(split.held_out) == ["val/cat/0.jpg", "val/cat/1.jpg", "val/dog/0.jpg", "val/dog/1.jpg"]
    assert len(split.train) == 6
    assert list(split.train_labels) == [0, 0, 0, 1, 1, 1]
    assert len(data.load_split(settings(tmp_path, test_images=2)).test) == 2
    assert data.load_split(settings(tmp_path, test_images=2)).hash == split.hash


def test_each_folder_is_read_once_however_it_is_linked(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine" / "a").mkdir(parents=True)
    picture().save(tmp_path / "elsewhere" / "x.png")
    picture().save(tmp_path / "mine" / "a" / "y.png")
    for link, target in (("linked", tmp_path / "elsewhere"), ("twice", tmp_path / "elsewhere"), ("round", tmp_path)):
        (tmp_path / "mine" / link).symlink_to(target, target_is_directory=True)
    assert folder.list_names(tmp_path / "mine") == ["a/y.png", "linked/x.png"]


def stylegan(path, count=8, labels=None, extra=()):
    """A zip in the layout that StyleGAN's tools write."""
    with zipfile.ZipFile(path, "w") as file:
        names = [f"{i // 5:05d}/img{i:08d}.png" for i in range(count)]
        for i, name in enumerate(names):
            file.writestr(name, encoded(picture(16, 16, seed=i)))
        if labels is not None:
            file.writestr("dataset.json", json.dumps({"labels": labels and list(zip(names, labels, strict=True))}))
        for name, content in extra:
            file.writestr(name, content)
    return path


def test_stylegan_zip_with_and_without_labels(tmp_path):
    split = data.load_split(settings(stylegan(tmp_path / "plain.zip")))
    assert (len(split.train), len(split.test)) == (6, 2)
    assert not split.train_labels.any()
    pixels = {noise(16, 16, seed=i).tobytes() for i in range(8)}
    seen = ((np.concatenate([split.train[:], split.test]) + 1) * 127.5).round().astype(np.uint8)
    assert {image.tobytes() for image in seen} == pixels
    split = data.load_split(settings(stylegan(tmp_path / "labelled.zip", labels=[0, 1] * 4)))
    assert sorted(split.test_labels) == [0, 1]
    assert not data.load_split(settings(stylegan(tmp_path / "null.zip", labels=[]))).test_labels.any()


def test_zip_members_that_climb_out_are_left_out(tmp_path):
    content = encoded(picture())
    extra = [("../up.png", content), ("/root.png", content), ("__MACOSX/._x.png", b""), ("read.me", b"")]
    split = data.load_split(settings(stylegan(tmp_path / "climbs.zip", extra=extra)))
    assert split.left_out == (
        "'../up.png': its name points outside the zip",
        "'/root.png': its name points outside the zip",
    )
    assert len(split.train) + len(split.test) == 8


def test_bad_sources_of_pictures_are_named(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.txt"
    text.write_text("hello")
    fake = tmp_path / "fake.zip"
    fake.write_bytes(b"PK but no zip")
    cases = {
        "empty folder": (settings(empty), "holds no image that can be used"),
        "zip without images": (settings(stylegan(tmp_path / "none.zip", 0, [])), "holds no image that can be used"),
        "no zip": (settings(fake), "is not a zip"),
        "bad labels": (settings(stylegan(tmp_path / "bad.zip", extra=[("dataset.json", "[]")])), "dataset.json is not"),
        "neither": (settings(text), "neither a folder, nor a .zip, nor an .npz, nor an .npy"),
        "missing": (settings(tmp_path / "x", download_hint="ask home"), r"data.path = .*does not exist: ask home"),
        "no size": (settings(stylegan(tmp_path / "some.zip"), size=0), "config.data.size = 0: set the side length"),
        "all too small": (settings(stylegan(tmp_path / "tiny.zip"), size=32), r"than size=32 \(config.data.size\)"),
    }  # fmt: skip
    for name, (c, message) in cases.items():
        with pytest.raises(InputError, match=message) as refused:
            data.load_split(c)
        assert "\n" not in str(refused.value), name


def test_a_file_that_may_not_be_read_is_left_out(tmp_path):
    for i in range(8):
        picture(seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").unlink()
    (tmp_path / "3.png").symlink_to(os.devnull + "/nowhere")
    assert data.load_split(settings(tmp_path)).left_out == ("'3.png': Not a directory",)
