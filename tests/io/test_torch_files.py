import gzip
import io
import pathlib
import pickle
import struct
import tempfile
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fmdp.errors import InputError
from fmdp.io.archives import is_bomb
from fmdp.io.torch_files import read_checkpoint, read_state_dict
from tests.support.bad_input import at_most
from tests.support.generated import cases
from tests.support.torch_files import (
    Call,
    Storage,
    dump,
    edm_pickle,
    invented_modules,
    stream,
    tensor,
    torch_stream,
    torch_zip,
)

RNG = np.random.default_rng(0)
ARRAYS = {
    "enc.conv.weight": RNG.standard_normal((3, 2, 3, 3)).astype(np.float32),
    "enc.conv.bias": RNG.standard_normal(3).astype(np.float16),
    "steps": np.arange(4),
    "scale": np.float64(2.5),
    "flag": np.array([True, False]),
}


@pytest.fixture(autouse=True)
def no_invented_modules():
    with invented_modules():
        yield


def read(tmp_path, content, name="x.pkl"):
    (tmp_path / name).write_bytes(content)
    return read_state_dict(tmp_path / name)


def npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


FILES = {
    "x.pt": torch_zip,
    "x.pth": torch_stream,
    "x.ckpt": lambda arrays: torch_zip(arrays, lambda x: {"epoch": 3, "state_dict": x, "optimizer": {"lr": 0.1}}),
    "old.pt": lambda arrays: torch_stream(arrays, lambda x: {"params_ema": x, "params": {}}),
    "x.pkl": edm_pickle,
    "x.npz": npz,
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_its_arrays(name, tmp_path):
    found = read(tmp_path, FILES[name](ARRAYS), name)
    assert set(found) == set(ARRAYS)
    for key, array in found.items():
        assert array.dtype == ARRAYS[key].dtype
        np.testing.assert_array_equal(array, ARRAYS[key])


def test_safetensors(tmp_path):
    save_file({"a": ARRAYS["enc.conv.weight"]}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "x.safetensors")["a"], ARRAYS["enc.conv.weight"])


@pytest.mark.parametrize("name", FILES)
def test_files_compressed_by_gzip_give_their_arrays(name, tmp_path):
    found = read(tmp_path, gzip.compress(FILES[name](ARRAYS)), name)
    assert set(found) == set(ARRAYS)
    for key, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[key])


def test_gzip_that_is_damaged_or_a_bomb_is_one_line(tmp_path):
    whole = gzip.compress(edm_pickle(ARRAYS))
    wrong = bytearray(whole)
    wrong[-8] ^= 1  # of the checksum
    for content in (whole[:-20], whole[:40], whole[:3], bytes(wrong), gzip.compress(whole)):
        with pytest.raises(InputError, match=r"damaged|neither a pickle") as refused:
            read(tmp_path, content)
        assert str(refused.value).isprintable()
    with pytest.raises(InputError, match="unpacks to more than 200 times its size: download it again"):
        read(tmp_path, gzip.compress(b"\x80" + b"\0" * 20_000_000))


def test_a_zip_in_gzip_may_unpack_no_further_than_either(tmp_path):
    """The zip unpacks to less than 200 times its size, and so does the gzip, but not one after the other."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 40_000_000)
        archive.writestr(zipfile.ZipInfo("archive/filler"), b"\0" * 4_000_000)
    with zipfile.ZipFile(file) as archive:
        assert not is_bomb(44_000_000, sum(member.compress_size for member in archive.infolist()))
    packed = gzip.compress(file.getvalue())
    assert not is_bomb(len(file.getvalue()), len(packed))
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        read(tmp_path, packed)


def test_the_class_of_a_network_and_what_it_switches_on_are_read_as_text(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(edm_pickle(ARRAYS, network_class="AMFPrecond", switches=("bin_spectrum",)))
    found = read_checkpoint(path)
    assert set(found.arrays) == set(ARRAYS)
    assert (found.network_class, found.switches) == ("AMFPrecond", {"bin_spectrum"})
    for name in ("x.pt", "x.npz"):
        path.write_bytes(FILES[name](ARRAYS))
        assert read_checkpoint(path)[1:] == ("", frozenset())


def test_strides_and_offsets_are_honoured(tmp_path):
    storage = Storage("0", np.arange(12, dtype=np.float32))
    views = {"t": tensor(storage, (3, 4), (1, 3)), "part": tensor(storage, (2, 2), (6, 2), 1)}
    found = read(tmp_path, stream(views, [storage]))
    np.testing.assert_array_equal(found["t"], np.arange(12).reshape(4, 3).T)
    np.testing.assert_array_equal(found["part"], [[1, 3], [7, 9]])


def hostile(module, name, *arguments):
    class Attack:
        def __reduce__(self):
            return Call(module, name, arguments).__reduce__()

    return Attack()


ATTACKS = {
    "os.system": ("os", "system", "touch {}"),
    "posix.system": ("posix", "system", "touch {}"),
    "builtins.exec": ("builtins", "exec", "open({!r}, 'w')"),
    "builtins.eval": ("builtins", "eval", "open({!r}, 'w')"),
    "builtins.getattr": ("builtins", "getattr", "x", "y"),
    "subprocess.Popen": ("subprocess", "Popen", "touch {}"),
    "pathlib.Path": ("pathlib", "Path", "{}"),
    "shutil.rmtree": ("shutil", "rmtree", "{}"),
    "functools.partial": ("functools", "partial", "x"),
    "numpy.ctypeslib.load_library": ("numpy.ctypeslib", "load_library", "x", "y"),
    "numpy.fromfile": ("numpy", "fromfile", "{}"),
    "torch.hub.load": ("torch.hub", "load", "x"),
    "torch.load": ("torch", "load", "x"),
    "webbrowser.open": ("webbrowser", "open", "x"),
}


@pytest.mark.parametrize("place", ["alone", "in_the_network", "in_a_storage", "in_a_zip"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_by_name_and_nothing_runs(name, place, tmp_path):
    touched = tmp_path / "touched"
    module, called, *arguments = ATTACKS[name]
    attack = hostile(
        module, called, *(text.replace("{}", str(touched)).replace("{!r}", repr(str(touched))) for text in arguments)
    )
    content = {
        "alone": lambda: pickle.dumps({"ema": attack}, 4),
        "in_the_network": lambda: pickle.dumps({"ema": {"weight": tensor_like(attack)}}, 2),
        "in_a_storage": lambda: pickle.dumps({"ema": {"weight": tensor_like(inside(attack))}}, 2),
        "in_a_zip": lambda: torch_zip({"a": np.ones(2, np.float32)}, lambda x: x | {"b": attack}),
    }[place]()
    with pytest.raises(InputError) as refused:
        read(tmp_path, content)
    assert name.split(".")[-1] in str(refused.value)
    assert "nothing was run" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not touched.exists()


def inside(attack):
    return Call("torch.storage", "_load_from_bytes", (pickle.dumps(attack),))


def tensor_like(attack):
    return Call("torch._utils", "_rebuild_tensor_v2", (attack, 0, (1,), (1,), False, {}))


def test_source_text_in_a_pickle_is_never_executed(tmp_path):
    touched = tmp_path / "touched"
    found = read(tmp_path, edm_pickle(ARRAYS, f"open({str(touched)!r}, 'w').close()"))
    assert set(found) == set(ARRAYS)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a pickle"),
        (b"hello there, this is text", "neither a pickle"),
        (pickle.dumps({"a": 1}), "holds no arrays of a network"),
        (pickle.dumps([1, 2]), "holds no arrays of a network"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_state_dict(tmp_path / "nowhere.pt")


def test_shapes_beyond_the_bytes_are_refused_without_room_being_made(tmp_path):
    storage = Storage("0", np.arange(4, dtype=np.float32))
    for shape, stride in [((1 << 40,), (0,)), ((1 << 40,), (1,)), ((5,), (1,)), ((2,), (4,)), ((2,), (-1,))]:
        with pytest.raises(InputError, match="damaged"):
            read(tmp_path, stream({"a": tensor(storage, shape, stride)}, [storage]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(InputError, match="unpacks to more than"):
        read(tmp_path, file.getvalue())
    deep = {}
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(InputError):
        read(tmp_path, dump(deep))


def laughing(before, after):
    """A pickle of 300 bytes with a pair of equal pairs of equal pairs in it, 2^60 parts for str() or hash()."""
    levels = b"".join(b"\x94h" + bytes([level]) + b"\x86" for level in range(60))  # memoize, get, make a pair
    return b"\x80\x04" + before + b"N" + levels + after


LAUGHING = {
    "module": laughing(b"", b"\x8c\x01x\x93."),
    "name": laughing(b"\x8c\x01x", b"\x93."),
    "key of a dict": laughing(b"}", b"Ns."),
    "type of NumPy": laughing(
        b"}\x8c\x01acnumpy.core.numeric\n_frombuffer\n(C\x04aaaacnumpy\ndtype\n", b"\x85RK\x01\x85\x8c\x01CtRs."
    ),
    "key of a storage": laughing(
        b"}\x8c\x01actorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n",
        b"\x8c\x03cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89NtRs.",
    ),
    "nested dicts": b"\x80\x04}\x94"
    + b"".join(b"}(\x8c\x01ah%c\x8c\x01bh%cu\x94" % (level, level) for level in range(50))
    + b".",
}


@pytest.mark.parametrize("place", LAUGHING)
def test_parts_that_grow_without_end_are_refused_at_once(place, tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", LAUGHING[place])
    with at_most(5), pytest.raises(InputError, match="damaged"):
        read(tmp_path, file.getvalue())


def at(content, offset, value, central=True):
    """A zip with one byte of the first member's record changed, in the central directory or before the member."""
    changed = bytearray(content)
    place = changed.index(b"PK\x01\x02" if central else b"PK\x03\x04") + offset
    changed[place] ^= value
    return bytes(changed)


ODD_ZIPS = {
    "encrypted": (lambda x: at(x, 8, 1), "encrypted"),
    "strongly encrypted": (lambda x: at(x, 8, 0x41), "encrypt"),
    "an unknown compression": (lambda x: at(x, 10, 98), "compression"),
    "bzip2 that is none": (lambda x: at(x, 10, 12), "cannot be read"),
    "lzma that is none": (lambda x: at(x, 10, 14), "cannot be read"),
    "a newer version of zip": (lambda x: at(x, 6, 0xF0), "version"),
    "a wrong checksum": (lambda x: at(x, 16, 0xFF), "CRC"),
    "another name in front": (lambda x: at(x, 30, 0x20, central=False), "differ"),
    "an extra field that ends early": (lambda x: at(x, 30, 0x20), "cannot be opened|is not"),
    "a member beyond the end": (lambda x: at(x, 44, 0x7F), "cannot be read"),
    "one disk of several": (lambda x: x[:-22] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + x[-22:], "disks"),
    "no central directory": (lambda x: x[: x.index(b"PK\x01\x02")], "cannot be opened"),
}


@pytest.mark.parametrize("oddity", ODD_ZIPS)
def test_odd_zips_are_one_line(oddity, tmp_path):
    change, message = ODD_ZIPS[oddity]
    for name, content, said in (
        ("x.pt", torch_zip(ARRAYS), message),
        ("x.npz", npz(ARRAYS), "cannot be opened|not an npz"),
    ):
        with pytest.raises(InputError, match=said) as refused:
            read(tmp_path, change(content), name)
        assert str(refused.value).isprintable()


with invented_modules():  # not to be met by the imports of other tests
    WHOLE = {name: make(ARRAYS) for name, make in FILES.items()}
    WHOLE["x.pkl.gz"] = gzip.compress(WHOLE["x.pkl"])


@cases(400)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damaged_files_are_refused_or_read_but_never_crash(name, data):
    content = bytearray(WHOLE[name])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "damaged"
        path.write_bytes(bytes(content))
        try:
            found = read_state_dict(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
