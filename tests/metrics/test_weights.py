import hashlib
import sys
import types

import jax
import numpy as np
import pytest

from fmdp.config.defaults import default_config
from fmdp.config.validation import validate_for_devices
from fmdp.errors import InputError
from fmdp.metrics import weights
from tests.support.published import random_arrays, write_random_weights

ARRAYS = random_arrays("lpips_alex")
CONTENTS = {"alexnet-owt-7be5be79.pth": b"backbone", "alex.pth": b"linear"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, in which no weights are."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    return tmp_path / "home"


@pytest.fixture
def files(monkeypatch):
    """Stand-ins for AlexNet's published files: their digests are taken for the published ones; reads are counted."""
    source, reads = weights.SOURCES["lpips_alex"], []
    package, torch = source.releases
    stand_ins = [
        file._replace(digest=hashlib.sha256(content).hexdigest()[:8])
        for file, content in zip(torch.files, CONTENTS.values(), strict=True)
    ]
    releases = [package, torch._replace(files=stand_ins)]
    monkeypatch.setitem(weights.SOURCES, "lpips_alex", source._replace(releases=releases))

    def read(path):
        reads.append(path.name)
        return {name: x for name, x in ARRAYS.items() if name.startswith("lin") == (path.name == "alex.pth")}

    monkeypatch.setattr(weights, "read_torch", read)
    return reads


def fill(folder, contents=CONTENTS):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_published_files_are_converted_once(home, files, tmp_path):
    first = weights.load_weights("lpips_alex", str(fill(tmp_path / "given")))
    assert first.origin == "alexnet-owt-7be5be79.pth + alex.pth"
    assert files == ["alexnet-owt-7be5be79.pth", "alex.pth"]
    again = weights.load_weights("lpips_alex", "auto")
    assert len(files) == 2
    assert again.origin == first.origin
    assert same(first.params, again.params)
    assert sorted(p.name for p in weights.cache_folder().iterdir()) == ["lpips_alex.npz"]


def test_weights_are_found_where_torch_keeps_them(home, files, monkeypatch, tmp_path):
    fill(home / ".cache" / "torch" / "hub" / "checkpoints")
    assert len(weights.find_weights("lpips_alex", "auto").paths) == 2
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert weights.find_weights("lpips_alex", "auto") is None
    fill(tmp_path / "torch" / "hub" / "checkpoints")
    assert len(weights.find_weights("lpips_alex", "auto").paths) == 2


def test_one_publisher_s_name_is_as_good_as_the_other_s(home, tmp_path):
    (tmp_path / "weights-inception-2015-12-05-6726825d.pth").touch()
    (path,) = weights.find_weights("inception", str(tmp_path)).paths
    assert weights.find_weights("inception", str(path)).paths == [path]
    assert weights.find_weights("lpips_vgg", str(tmp_path)) is None


def test_a_file_that_is_not_the_published_one_is_refused_before_the_run(home, files, tmp_path):
    folder = fill(tmp_path / "given", CONTENTS | {"alex.pth": b"another"})
    message = r"alex.pth is damaged or another file: its SHA-256 starts with \w{8} instead of \w{8}; get "
    with pytest.raises(InputError, match=message):
        weights.load_weights("lpips_alex", str(folder))
    assert files == []
    settings = default_config()
    settings.evaluate.lpips = str(folder)
    with pytest.raises(InputError, match=message):
        validate_for_devices(settings, 1)


def test_a_place_without_weights_is_refused_and_auto_is_not(home, tmp_path):
    settings = default_config()
    settings.evaluate.update(inception="auto", lpips="auto")
    validate_for_devices(settings, 1)
    assert weights.load_weights("inception", "auto") is None
    settings.evaluate.inception = str(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"config.evaluate.inception = .*nowhere': no weights there; it needs pt_incep"
    ):
        validate_for_devices(settings, 1)


def test_a_file_in_the_cache_that_does_not_fit_is_named(home, files, tmp_path):
    weights.load_weights("lpips_alex", str(fill(tmp_path / "given")))
    path = weights.cache_folder() / "lpips_alex.npz"
    with pytest.raises(InputError, match="does not hold the weights of lpips_vgg"):
        weights.load_weights("lpips_vgg", str(path))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"lpips_alex.npz is damaged .*; remove it"):
        weights.load_weights("lpips_alex", "auto")


def test_converted_weights_may_be_given_instead(home, tmp_path):
    write_random_weights(tmp_path, "lpips_alex")
    settings = default_config()
    settings.evaluate.lpips = str(tmp_path)
    validate_for_devices(settings, 1)
    given = weights.load_weights("lpips_alex", str(tmp_path))
    assert given.origin == "random"
    assert same(given.params, weights.SOURCES["lpips_alex"].releases[1].convert(ARRAYS))
    assert weights.load_weights("lpips_vgg", str(tmp_path)) is None


def test_a_cache_that_cannot_be_written_is_no_hindrance(home, files, tmp_path):
    home.write_text("a file where the folder should be")
    assert weights.load_weights("lpips_alex", str(fill(tmp_path / "given"))).origin.endswith("alex.pth")


def test_torch_files_are_read_by_our_own_reader_or_not_at_all(monkeypatch, tmp_path):
    reader = types.SimpleNamespace(read_state_dict=lambda path: {path.name: np.ones(2)})
    monkeypatch.setitem(sys.modules, "fmdp.io.torch_files", reader)
    assert list(weights.read_torch(tmp_path)) == [tmp_path.name]
    monkeypatch.setitem(sys.modules, "fmdp.io.torch_files", None)
    with pytest.raises(InputError, match="cannot be read: this fmdp has no reader of torch files"):
        weights.read_torch(tmp_path)
