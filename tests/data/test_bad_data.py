"""Folders, zips and arrays that are broken, hostile or change while they are read: each ends in one line."""

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import tempfile
import time
import warnings
import zlib

import numpy as np
import pytest

from fmdp import data
from fmdp.data import folder
from fmdp.data.decoding import ImagePreprocessor, UnusableError
from fmdp.errors import InputError
from fmdp.restoration import image_files
from fmdp.restoration.picture_files import read_picture
from tests.cli.test_main import command
from tests.support import damaged_pictures
from tests.support.bad_input import at_most, little_memory, one_line, refused
from tests.support.image_folders import fill, restored, source

WHOLE = damaged_pictures.originals()


def with_chunk(kind, data, place):
    parts = damaged_pictures.chunks(WHOLE["colour.png"])
    parts.insert(place % len(parts), (kind, data))
    return damaged_pictures.png(parts)


def zeros(count):
    """So many zeros, packed."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(count >> 20)) + packer.flush()


def test_a_picture_counts_by_its_content_and_not_by_its_name(tmp_path):
    fill(tmp_path / "in")
    (tmp_path / "in" / "png.jpg").write_bytes(WHOLE["colour.png"])
    (tmp_path / "in" / "jpg.png").write_bytes(WHOLE["colour.jpg"])
    split = data.load_split(source(tmp_path / "in"))
    assert split.left_out == ()
    assert len(split.train) + len(split.test) == 10
    assert restored(tmp_path / "in", tmp_path / "out") == (10, [])


@pytest.mark.parametrize("place", [1, -1], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_bombs_in_metadata_take_no_memory(kind, place):
    head = {b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0", b"iCCP": b"name\0\0"}[kind]
    content = with_chunk(kind, head + zeros(2**29), place)
    with little_memory(), at_most(10), contextlib.suppress(UnusableError):
        ImagePreprocessor(size=8, channels=3, max_pixels=10_000).upright(io.BytesIO(content))


def test_data_sets_whose_code_would_be_fetched_are_refused(tmp_path):
    for name in ("huggingface:mnist", "kaggle:cats", "../mnist", "a b", "mnist;x"):
        c = source(tmp_path, source="tfds", dataset=name)
        assert f"config.data.dataset = {name!r}: name a data set of tensorflow-datasets itself" in refused(
            data.load_split, c
        )


def test_damaged_metadata_turns_nothing_and_harms_nothing():
    frame = ImagePreprocessor(size=8, channels=3, max_pixels=10_000)
    plain = frame.decode(
        io.BytesIO(damaged_pictures.png(p for p in damaged_pictures.chunks(WHOLE["colour.png"]) if p[0] != b"eXIf"))
    )
    parts = [
        (kind, b"no exif" if kind == b"eXIf" else data) for kind, data in damaged_pictures.chunks(WHOLE["colour.png"])
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(frame.decode(io.BytesIO(damaged_pictures.png(parts))), plain)
        frame.decode(io.BytesIO(with_chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 2**22, -1)))


@pytest.fixture
def strange(tmp_path):
    """Eight good pictures among what is no regular file, and names that are not UTF-8."""
    root = fill(tmp_path / "in")
    os.mkfifo(root / "pipe.png")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "folder.png").mkdir()
    (root / "loop.png").symlink_to("loop.png")
    (root / "empty.png").touch()
    (root / "inner").mkdir()
    (root / "inner" / "round").symlink_to(root, target_is_directory=True)
    here = pathlib.Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(root)  # the name of a socket may be no longer than 107 bytes
        server.bind("socket.png")
        os.chdir(here)
    shutil.copy(os.fsencode(root / "0.png"), os.fsencode(root) + b"/\xff\xfe.png")
    (root / "\x1b[31mred\n.png").write_bytes(b"")
    return root


ODD = {"pipe", "device", "loop", "empty", "socket", "\x1b[31mred\n"}


def test_what_is_no_regular_file_is_left_out_and_waited_for_by_nobody(strange, tmp_path, caplog):
    with at_most(60):
        split = data.load_split(source(strange))
    assert len(split.train) + len(split.test) == 9
    assert len(split.left_out) == len(ODD)
    for name in ("pipe", "device"):
        assert f"'{name}.png': neither a file nor a link to one" in split.left_out
    assert all(one_line(line) for line in split.left_out)
    assert len(caplog.records) == 1
    assert "6 of 15 images left out" in caplog.text
    data.pin_split(split, tmp_path / "split.json")
    assert json.loads((tmp_path / "split.json").read_text())["left_out"] == list(split.left_out)
    done, faults = restored(strange, tmp_path / "out")
    assert done == 9
    assert len(faults) == len(ODD)
    assert all(one_line(line) for line in faults)
    made = {os.fsencode(path.name) for path in (tmp_path / "out").glob("*.json")}
    assert made == {b"%d.json" % i for i in range(8)} | {b"\xff\xfe.json"}
    for name in ("pipe", "device", "socket"):
        done, faults = restored(strange / f"{name}.png", tmp_path / "alone")
        assert (done, len(faults)) == (0, 1)


@pytest.mark.slow
def test_names_of_any_bytes_are_printed(tmp_path):
    root = tmp_path / os.fsdecode(b"\xff\x1b[31m\n")
    fill(root, 1)
    shutil.copy(root / "0.png", os.fsencode(root) + b"/\xfe.png")
    (root / "empty.png").touch()
    common = ("--mode=restore", "--checkpoint=fashion_mnist", f"--output={root}out", "--sigma=0.1")
    process = command(*common, f"--input={root}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == f"2 restored, 1 not; results in {tmp_path}/\\udcff\\x1b[31m\\nout"
    assert "\x1b" not in out + err
    process = command(*common, f"--input={root}/no")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert "\x1b" not in err


def test_a_folder_that_changes_while_it_is_read(tmp_path, monkeypatch, caplog):
    root = fill(tmp_path / "in")
    fill(root / "going", 3)
    fill(root / "gone", 3)
    walk = os.walk

    def changing(*arguments, **options):
        for number, found in enumerate(walk(*arguments, **options)):
            if number == 0:
                shutil.rmtree(root / "gone")  # listed, but not there when it is looked into
            if found[0].endswith("going"):
                shutil.rmtree(root / "going")  # looked into, but not there any more
            yield found

    monkeypatch.setattr(os, "walk", changing)
    names = folder.list_names(root)
    assert names == [f"{i}.png" for i in range(8)]
    assert len(caplog.records) == 2
    assert all(name in caplog.text for name in ("/gone'", "/going'"))
    monkeypatch.undo()
    split = data.load_split(source(root, memory_gb=0.0))
    first, second = split.train.names[:2]
    (root / first).unlink()
    (root / second).unlink()
    os.mkfifo(root / second)
    with at_most(20):
        np.testing.assert_array_equal(split.train[:1], split.train[2:3])
        np.testing.assert_array_equal(split.train[1:2], split.train[2:3])
    monkeypatch.setattr(folder, "list_names", lambda *_: [*names, "never.png"])
    done, faults = restored(root, tmp_path / "out")
    assert (done, len(faults)) == (6, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives its rights away, which only root can")
def test_what_may_not_be_read_is_named(tmp_path, caplog):
    with tempfile.TemporaryDirectory() as place:
        pathlib.Path(place).chmod(0o755)
        root = fill(pathlib.Path(place) / "in")
        fill(root / "closed", 2).chmod(0)
        (root / "3.png").chmod(0)
        os.seteuid(65534)
        try:
            split = data.load_split(source(root))
            paths = image_files.find_images(root, pathlib.Path(place) / "out")
            with pytest.raises(InputError, match=r"cannot be reached \(Permission denied\): name another folder"):
                image_files.find_images(root, tmp_path)
            with pytest.raises(PermissionError):
                read_picture(root / "3.png")
        finally:
            os.seteuid(0)
    assert split.left_out == ("'3.png': Permission denied",)
    assert len(paths) == 8
    assert "/in/closed' cannot be read (Permission denied): the pictures in it are left out" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_process_that_dies_is_reported_at_once(tmp_path, workers):
    images = data.load_split(source(fill(tmp_path), memory_gb=0.0)).train
    with contextlib.closing(data.batches(images, 4, 0, workers=workers)) as batches:
        next(batches)
        started = [child for child in multiprocessing.active_children() if "grain" in child.name]
        assert len(started) == workers
        began = time.monotonic()
        os.kill(started[0].pid, signal.SIGKILL)
        ended = r"a process .* ended unexpectedly \(.*exit code -9\)"
        with at_most(30), pytest.raises(InputError, match=ended) as refusal:
            all(next(batches) for _ in itertools.count())
        assert one_line(str(refusal.value))
        assert f"config.data.workers = {workers}" in str(refusal.value)
        assert time.monotonic() - began < 10
        assert next(batches)["image"].shape == (4, 8, 8, 3)  # and can be started anew


@pytest.mark.slow
def test_pictures_that_vanish_under_a_worker_are_reported(tmp_path):
    images = data.load_split(source(fill(tmp_path), memory_gb=0.0)).train
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with contextlib.closing(data.batches(images, 4, 0, workers=1)) as batches, at_most(60):
        assert "none of 6 images can be decoded" in refused(next, batches)
