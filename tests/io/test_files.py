import pathlib

import pytest

import fmdp
from fmdp.convert import convert
from fmdp.errors import InputError
from fmdp.io.files import expand_path
from fmdp.io.run_dir import RunDir

ADDRESSES = ["gs://bucket/run", "s3://bucket/run", "https://host/run", "HTTP://host/run", "abfs+x://host/run"]


@pytest.fixture(autouse=True)
def nothing_is_made(tmp_path, monkeypatch):
    """A working directory in which refused names leave no folder such as gs: behind."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.glob("*:*"))


@pytest.mark.parametrize("refuse", [expand_path, RunDir.open, fmdp.load])
@pytest.mark.parametrize("address", [*ADDRESSES, "file:///pictures/x"])
def test_addresses_are_no_paths(address, refuse):
    with pytest.raises(InputError) as refused:
        refuse(address)
    remedy = "only files on this machine are read and written: copy it here, and name its path"
    assert str(refused.value) == f"{address!r} is an address, and {remedy}"


def test_addresses_that_went_through_pathlib_are_no_paths():
    for refuse in (fmdp.load, lambda path: convert(pathlib.Path("digits"), path)):
        with pytest.raises(InputError, match="'gs:/bucket/run' is an address"):
            refuse(pathlib.Path("gs://bucket/run"))


@pytest.mark.parametrize("path", ["C:\\runs\\mine", "c:/runs/mine", "\\\\server\\share\\run"])
def test_paths_of_windows_are_refused_elsewhere(path, monkeypatch):
    with pytest.raises(InputError) as refused:
        fmdp.load(path)
    assert str(refused.value).startswith(f"{path!r} is a path of Windows, and this is another system")


def test_what_only_looks_like_an_address_is_a_path(tmp_path):
    (tmp_path / "d:").mkdir()
    (tmp_path / "d:" / "x").touch()
    assert expand_path("d:/x") == pathlib.Path("d:/x")
    for name in ("12:30/x", "gs", "a:b", "./gs:/x", "", "x=gs://b"):
        assert expand_path(name) == pathlib.Path(name)
    for path in (tmp_path / "d:").iterdir():
        path.unlink()
    (tmp_path / "d:").rmdir()


@pytest.mark.parametrize("refuse", [expand_path, fmdp.load])
@pytest.mark.parametrize("value", [3, None, b"runs/digits", ["runs/digits"]])
def test_only_text_and_paths_name_files(value, refuse):
    with pytest.raises(InputError, match="is no path: give the name of a file or folder as text"):
        refuse(value)
