"""Zips, npz and gzip files that are broken or hostile: each ends in one line, before it fills the memory."""

import gzip
import io
import json
import pathlib
import struct
import tempfile
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmdp import data
from fmdp.errors import InputError
from tests.support import damaged_pictures
from tests.support.bad_input import at_most, little_memory, one_line, refused
from tests.support.generated import cases
from tests.support.image_folders import source

WHOLE = damaged_pictures.originals()


def zipped(path, extra, count=8, **options):
    with zipfile.ZipFile(path, "w", **options) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for i in range(count):
            file.writestr(f"{i}.png", WHOLE["colour.png"])
        for name, content in extra:
            file.writestr(name, content)
    return path


def test_zip_members_of_hostile_names_are_left_out(tmp_path):
    names = ["../up.png", "/etc/root.png", "a/../../b.png", "..\\win.png", "C:\\x\\y.png", "\\\\host\\share\\x.png"]
    path = zipped(
        tmp_path / "x.zip", [*((name, WHOLE["colour.png"]) for name in names), ("0.png", WHOLE["colour.png"])]
    )
    before = set(tmp_path.rglob("*"))
    split = data.load_split(source(path))
    assert len(split.left_out) == len(names)
    assert all("points outside the zip" in line for line in split.left_out)
    assert len(split.train) + len(split.test) == 8  # the name that is there twice is there once
    assert set(tmp_path.rglob("*")) == before


def test_zip_bombs_and_strange_members_are_left_out(tmp_path):
    packed = dict(compression=zipfile.ZIP_DEFLATED)
    bomb = damaged_pictures.png(
        [*damaged_pictures.chunks(WHOLE["colour.png"])[:1], (b"iCCP", b"name\0\0" + bytes(2**26))]
    )
    path = zipped(tmp_path / "x.zip", [("bomb.png", bomb), ("zeros.png", bytes(2**26))], **packed)
    with little_memory(), at_most(20):
        split = data.load_split(source(path))
    assert len(split.left_out) == 2
    assert all("unpacks to more than 200 times its size" in line for line in split.left_out)
    content = bytearray(zipped(tmp_path / "y.zip", []).read_bytes())
    for number, (offset, value) in enumerate([(8, 1), (10, 98), (6, 0)]):  # encrypted, packed unusually, or fine
        at = [i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"][number]
        content[at + offset] = value
    (tmp_path / "y.zip").write_bytes(content)
    left_out = data.load_split(source(tmp_path / "y.zip")).left_out
    assert len(left_out) == 2
    assert "encrypted" in left_out[0]
    assert "compression" in left_out[1]


@pytest.mark.parametrize(
    "labels",
    ["[]", "{", "[" * 10**5, '{"labels": 3}', '{"labels": [[1]]}', '{"labels": [["0.png", 1e999]]}',
     '{"labels": "abc"}',
     '{"labels": [["0.png", 1' + "0" * 400 + "]]}", '{"labels": [["0.png", NaN]]}', '{"labels": [["0.png", [1]]]}'],
)  # fmt: skip
def test_labels_of_a_zip_that_are_none(tmp_path, labels):
    message = refused(data.load_split, source(zipped(tmp_path / "x.zip", [("dataset.json", labels)])))
    assert "its dataset.json is not" in message


ZIP = io.BytesIO()
zipped(ZIP, [("dataset.json", json.dumps({"labels": [["0.png", 1]]}))], 3, compression=zipfile.ZIP_DEFLATED)
NPZ = io.BytesIO()
np.savez_compressed(NPZ, images=np.arange(4 * 36, dtype=np.uint8).reshape(4, 6, 6), labels=np.arange(4) % 2)


@pytest.mark.slow
@cases(300)
@given(st.sampled_from([("zip", ZIP.getvalue()), ("npz", NPZ.getvalue())]), st.data())
def test_damaged_archives_are_refused_or_read(archive, draw):
    suffix, content = archive
    content = bytearray(content)
    if draw.draw(st.booleans()):
        del content[draw.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(draw.draw(st.integers(0, 4))):
        if content:
            content[draw.draw(st.integers(0, len(content) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        path = pathlib.Path(place) / f"x.{suffix}"
        path.write_bytes(content)
        try:
            split = data.load_split(source(path, size=8 if suffix == "zip" else 0, test_share=0.5))
            assert np.abs(split.train[:]).max() <= 1
        except InputError as error:
            assert one_line(str(error).replace(place, "")), str(error)  # noqa: PT017


def npy(shape, dtype="|u1", content=b""):
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + content


def test_hostile_arrays_are_refused_before_there_is_room_for_them(tmp_path):
    path = tmp_path / "x.npz"

    def write(content, **options):
        with zipfile.ZipFile(path, "w", **options) as file:
            file.writestr("images.npy", content)
        with little_memory(), at_most(20):
            return refused(data.load_split, source(path, size=0))

    assert "200 times" in write(npy((2**26, 1, 1), content=bytes(2**26)), compression=zipfile.ZIP_DEFLATED)
    assert "not an npz" in write(npy((2**45, 1, 1)))
    assert "not an npz" in write(npy((2**31, 2**31, 2**31)))
    assert "not an npz" in write(npy((-5, 2, 2), content=bytes(20)))
    assert "not an npz" in write(npy((2,), "|O", b"\x80\x04N."))
    assert "not an npz" in write(npy("(" * 5000))
    assert "has shape (3, 0, 6" in write(npy((3, 0, 6)))
    np.save(tmp_path / "x.npy", np.ones(3))
    path.write_bytes((tmp_path / "x.npy").read_bytes())
    assert "cannot be opened as a zip" in refused(data.load_split, source(path, size=0))
    path.write_bytes((tmp_path / "x.npy").read_bytes() + NPZ.getvalue())
    assert "not an npz" in refused(data.load_split, source(path, size=0))


def test_a_gzip_bomb_is_refused(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2**27)))
    with little_memory():
        message = refused(data.load_split, source(tmp_path, size=0))
    assert "unpacks to more than 200 times its size" in message
