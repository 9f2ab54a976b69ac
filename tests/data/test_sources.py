import gzip
import importlib
import pathlib
import struct

import numpy as np
import pytest
from PIL import Image

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.data import splits
from fmdp.errors import InputError


def settings(path, **changes):
    c = default_config().data
    c.update(dict(path=str(path), test_share=0.25) | changes)
    return c


def bytes_of(n, side=6, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, channels), np.uint8)


def idx_file(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
    """A folder of the four IDX files, one of them gzipped: 20 images in two classes, and 10."""
    for name, n in (("train", 20), ("t10k", 10)):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx_file(bytes_of(n, seed=n)[..., 0]))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx_file((np.arange(n) % 2).astype(np.uint8)))
    plain = tmp_path / "train-images-idx3-ubyte"
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return tmp_path


def test_idx_files_keep_their_official_split(fashion):
    split = data.load_split(settings(fashion))
    assert split.train.shape == (20, 6, 6, 1)
    np.testing.assert_allclose(split.train[:], bytes_of(20, seed=20) / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(split.test, bytes_of(10, seed=10) / 127.5 - 1, atol=1e-6)
    assert split.train[:].dtype == split.test.dtype == np.float32
    np.testing.assert_array_equal(split.test_labels, np.arange(10) % 2)
    few = data.load_split(settings(fashion, source="idx", test_images=4))
    assert sorted(few.test_labels) == [0, 0, 1, 1]
    assert few.hash == split.hash


def test_damaged_idx_files_are_named(fashion):
    images, labels = fashion / "t10k-images-idx3-ubyte", fashion / "t10k-labels-idx1-ubyte"
    whole = images.read_bytes()
    for content, message in (
        (whole[:-1], "t10k-images-idx3-ubyte holds 375 bytes"),
        (whole[:9], "holds 9 bytes"),
        (b"", "not an IDX file"),
        (b"\0\0\x0d" + whole[3:], "not an IDX file of unsigned bytes"),
    ):
        images.write_bytes(content)
        with pytest.raises(InputError, match=message):
            data.load_split(settings(fashion))
    images.write_bytes(whole)
    labels.write_bytes(idx_file(np.zeros(9, np.uint8)))
    with pytest.raises(InputError, match=r"test images of shape \(10, 6, 6\) with classes of shape \(9,\)"):
        data.load_split(settings(fashion))
    labels.unlink()
    with pytest.raises(InputError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        data.load_split(settings(fashion))
    packed = fashion / "train-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        data.load_split(settings(fashion))


def test_npz_of_bytes_or_floats_with_and_without_a_split(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, bytes_of(8, channels=3))
    split = data.load_split(settings(path))
    assert (split.train.shape, split.test.shape) == ((6, 6, 6, 3), (2, 6, 6, 3))
    np.savez(path, x_train=bytes_of(8)[..., 0], y_train=np.arange(8)[:, None] % 4, x_test=bytes_of(3, seed=1)[..., 0])
    split = data.load_split(settings(path))
    assert (split.train.shape, split.test.shape) == ((8, 6, 6, 1), (3, 6, 6, 1))
    np.testing.assert_array_equal(split.train_labels, np.arange(8) % 4)
    floats = np.random.default_rng(0).uniform(-1, 1, (8, 6, 6, 1))
    np.savez(path, images=floats, test_images=floats[:2])
    split = data.load_split(settings(path))
    np.testing.assert_array_equal(split.train[:], floats.astype(np.float32))
    assert split.test.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(pictures=bytes_of(3)), "has no array of images: name it one of train_images"),
        (dict(images=bytes_of(3, channels=2)), r"shape \(3, 6, 6, 2\)"),
        (dict(images=bytes_of(0)), r"shape \(0, 6, 6, 1\)"),
        (dict(images=2 * np.ones((3, 6, 6, 1))), "floats from -1 to 1"),
        (dict(images=np.full((3, 6, 6, 1), np.nan)), "images: it holds 108 NaN among 108 values, the first at"),
        (dict(images=np.ones((3, 6, 6, 1), int)), "bytes"),
        (dict(images=bytes_of(3), labels=np.arange(4)), "labels must hold one integer for each of the 3"),
        (dict(images=bytes_of(3), test_images=bytes_of(3, 7)), "training and test images have different shapes"),
        (dict(images=np.array([None])), "not an npz file of plain arrays"),
    ],
)
def test_npz_of_anything_else_is_refused(tmp_path, arrays, message):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as refused:
        data.load_split(settings(path))
    assert str(path) in str(refused.value)


def test_arrays_of_another_size_and_files_of_no_kind_are_refused(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, bytes_of(8))
    with pytest.raises(InputError, match=r"config.data.size = 32, but .* holds images of 6x6"):
        data.load_split(settings(path, size=32))
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"npz: it cannot be opened as a zip .*: save it again"):
        data.load_split(settings(path))
    with pytest.raises(InputError, match="'folders': must be one of digits, idx, npz, folder, zip, tfds"):
        data.load_split(settings(path, source="folders"))
    with pytest.raises(InputError, match=r"images.npz' is not a folder"):
        data.load_split(settings(path, source="folder"))


def test_subset_takes_of_every_class_its_share():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [600, 300, 100]))
    index = splits.subset(labels, 100)
    np.testing.assert_allclose(np.bincount(labels[index]), [60, 30, 10], atol=1)
    assert len(set(index)) == 100
    for size in (0, 1000, 2000):
        np.testing.assert_array_equal(splits.subset(labels, size), np.arange(1000))


def test_images_to_measure_on_are_not_all_of_one_class():
    by_class = np.repeat(np.arange(4), 50)
    images = by_class[:, None, None, None].astype(np.float32)
    held_out = data.split(images, by_class, 0.4)
    assert set(held_out.test_labels[:20]) == set(held_out.test_labels[::2]) == {0, 1, 2, 3}
    np.testing.assert_array_equal(held_out.test[:, 0, 0, 0], held_out.test_labels)
    assert set(by_class[splits.mixed_order(by_class)[:20]]) == {0, 1, 2, 3}
    for labels in (np.arange(200) % 4, np.zeros(200, int)):  # mixed already, or without classes
        np.testing.assert_array_equal(splits.mixed_order(labels), np.arange(200))


def test_a_run_keeps_to_the_split_it_began_with(fashion, tmp_path):
    path = tmp_path / "split.json"
    split = data.load_split(settings(fashion))
    for _ in range(2):
        data.pin_split(split, path)
    assert f'"hash": "{split.hash}"' in path.read_text()
    assert '"test/9"' in path.read_text()
    with pytest.raises(InputError, match=r"split.json is of a run on other images"):
        data.pin_split(split._replace(hash="another"), path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """AFHQ's official folder in small, and where it was prepared for tensorflow-datasets."""
    root = tmp_path_factory.mktemp("afhq")
    for part, count in (("train", 3), ("val", 2)):
        for kind in ("cat", "dog", "wild"):
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(bytes_of(1, 20, 3, seed=ord(kind[0]) + i)[0])
                image.save(root / part / kind / f"{i}.png")
    afhq = importlib.import_module("fmdp.data.afhq")
    afhq.prepare(root, root / "prepared")
    return root


@pytest.mark.slow
def test_afhq_through_tensorflow_datasets_is_its_folder(prepared):
    settled = dict(size=16, dataset="afhq", flip=True)
    there = data.load_split(settings(prepared / "prepared", source="tfds", **settled))
    here = data.load_split(settings(prepared, **settled))
    assert there.train.shape == here.train.shape == (9, 16, 16, 3)
    for ours, theirs in ((here.train[:], there.train[:]), (here.test, there.test)):
        assert {image.tobytes() for image in ours} == {image.tobytes() for image in theirs}
    assert sorted(there.train_labels) == sorted(here.train_labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    a, b = (next(data.batches(there.train, 6, 0, workers=workers)) for workers in (0, 1))
    np.testing.assert_array_equal(a["image"], b["image"])
    cropped = data.load_split(settings(prepared / "prepared", source="tfds", crop="random", min_scale=1.0, **settled))
    pictures = [bytes_of(1, 20, 3, seed=ord(kind) + i)[0] for kind in "cdw" for i in range(3)]
    windows = {p[i : i + 16, j : j + 16].tobytes() for p in pictures for i in range(5) for j in range(5)}
    assert {image.tobytes() for image in next(data.batches(cropped.train, 9, 0))["image"]} <= windows


@pytest.mark.slow
def test_data_sets_that_are_not_there_are_named(prepared, tmp_path):
    def refused(dataset, path=tmp_path):
        with pytest.raises(InputError) as error:
            data.load_split(settings(path, source="tfds", dataset=dataset, size=16))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"config.data.path = '{tmp_path}' holds no prepared cifar10" in refused("cifar10")
    assert "config.data.dataset = 'cifar': tensorflow-datasets says: Dataset cifar not" in refused("cifar")
    assert "config.data.dataset = '': tensorflow" in refused("")
    afhq = importlib.import_module("fmdp.data.afhq")
    with pytest.raises(InputError, match="train/cat does not exist"):
        afhq.prepare(tmp_path, tmp_path / "out")
    assert not list(pathlib.Path(tmp_path).iterdir())
