import json
import re
import shutil
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmdp
from configs import digits
from fmdp import networks
from fmdp.cli.run import run_config
from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir
from fmdp.networks.mlp import MLP
from fmdp.pretrained import prior as prior_files

SHAPE = (4, 6, 1)


@pytest.fixture(scope="module")
def prior():
    network = networks.make_backbone("mlp", {"width": 8, "blocks": 1})
    params = network.init(jax.random.key(0), jnp.zeros(SHAPE), 0.5, 0.5)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    return prior_files.Prior(
        params=params, network=network, image_shape=SHAPE, about=prior_files.PriorMetadata(name="tiny")
    )


@pytest.fixture
def saved(prior, tmp_path):
    prior_files.save(tmp_path / "tiny", prior)
    return tmp_path / "tiny"


@pytest.mark.slow
@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 0.01)])
def test_what_is_saved_is_loaded(prior, tmp_path, half, tolerance):
    prior_files.save(tmp_path / "tiny", prior, half)
    loaded = fmdp.load(tmp_path / "tiny")
    x = jax.random.normal(jax.random.key(2), (3, *SHAPE))
    wanted, found = (jax.jit(fmdp.denoise)(field, x, 0.4, 0.9) for field in (prior, loaded))
    np.testing.assert_allclose(found, wanted, atol=tolerance * float(jnp.abs(wanted).max()))
    assert loaded.image_shape == SHAPE
    assert loaded.about["name"] == "tiny"
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded))
    assert {path.name for path in tmp_path.iterdir()} == {"tiny"}


def test_a_prior_that_is_loaded_again_compiles_nothing_and_can_be_averaged(saved):
    compiled = jax.jit(lambda prior, x: prior(x, 0.5, 1.0))
    first, again = fmdp.load(saved), fmdp.load(saved)
    for prior in (first, again):
        compiled(prior, jnp.zeros(SHAPE))
    assert compiled._cache_size() == 1
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, again)
    np.testing.assert_array_equal(mean(jnp.ones(SHAPE), 0.5, 1.0), first(jnp.ones(SHAPE), 0.5, 1.0))


def test_a_prior_is_shown_without_its_arrays(prior):
    count = sum(x.size for x in jax.tree.leaves(prior.params))
    shown = f"Prior(MLP, image_shape=(4, 6, 1), {count:,} parameters)"
    assert repr(prior) == shown

    def traced(given):
        assert repr(given) == shown
        return given

    jax.eval_shape(traced, prior)
    assert repr(jax.tree.map(lambda _: None, prior)) == "Prior(MLP, image_shape=(4, 6, 1), 0 parameters)"


def test_half_takes_half_the_room(prior, tmp_path):
    sizes = []
    for half in (False, True):
        prior_files.save(tmp_path / str(half), prior, half)
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(prior)) * (2 if half else 4))
        held = (tmp_path / str(half) / prior_files.WEIGHTS).stat().st_size
        assert sizes[-1] < held < sizes[-1] + 2000


class Own(nn.Module):
    """A network that fmdp does not know."""

    width: int = 3

    @nn.compact
    def __call__(self, x, s, t):
        h = nn.Dense(self.width, name="first")(x) + jnp.asarray(s + t)[..., None, None, None]
        return nn.Dense(x.shape[-1], name="last")(jnp.sin(h))


class Another(Own):
    """Of the same arrays, under another name."""


@pytest.fixture
def own(tmp_path):
    """A prior with a network of one's own, and the folder that it is saved in."""
    params = Own().init(jax.random.key(0), jnp.zeros(SHAPE), 0.0, 0.0)["params"]
    about = prior_files.PriorMetadata(name="own")
    prior = prior_files.Prior(params=params, network=Own(), image_shape=SHAPE, about=about)
    prior_files.save(tmp_path / "own", prior)
    return prior, tmp_path / "own"


def test_a_network_of_ones_own_is_saved_by_name_and_loaded_with_the_network(own):
    prior, folder = own
    described = json.loads((folder / prior_files.MODEL).read_text())["network"]
    assert described == {"name": f"{__name__}.Own"}
    loaded = fmdp.load(folder, network=Own())
    x = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    np.testing.assert_array_equal(loaded(x, jnp.full(2, 0.2), jnp.full(2, 0.6)), prior(x, 0.2, 0.6))
    assert (loaded.about["name"], loaded.network) == ("own", Own())
    edit(folder, lambda m: m["network"].update(name="notebook.of.mine.Own"))  # the class has moved
    assert fmdp.load(folder, network=Own()).image_shape == SHAPE


def test_a_network_that_derives_from_one_of_ours_is_ones_own(tmp_path):
    class Derived(MLP):
        pass

    network = Derived(width=4, blocks=1)
    params = network.init(jax.random.key(0), jnp.zeros(SHAPE), 0.5, 0.5)["params"]
    about = prior_files.PriorMetadata()
    prior = prior_files.Prior(params=params, network=network, image_shape=SHAPE, about=about)
    prior_files.save(tmp_path / "derived", prior)
    with pytest.raises(InputError, match=r"network=Derived\(\.\.\.\)"):
        fmdp.load(tmp_path / "derived")
    assert fmdp.load(tmp_path / "derived", network=network).network == network


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"own holds a network that is not part of fmdp, .*\.Own: pass it to fmdp\.load, network=Own\(\.\.\.\)"),
        ({"network": Another()}, r"holds a network .*\.Own, and network= is a Another: pass one of that class"),
        ({"network": Own(width=5)}, r"does not belong to network= \(.* has the shape .*\): pass the network that was"),
        ({"network": Own(), "kind": "flow_map"}, "only a released checkpoint has a kind"),
    ],
)
def test_a_network_of_ones_own_that_is_missing_or_another_is_one_line(own, given, message):
    with pytest.raises(InputError, match=message) as refused:
        fmdp.load(own[1], **given)
    assert str(refused.value).isprintable()


def test_no_name_in_a_file_is_imported(own, tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    edit(own[1], lambda m: m["network"].update(name="hostile_module.Own"))
    with pytest.raises(InputError, match=r"hostile_module\.Own"):
        fmdp.load(own[1])
    fmdp.load(own[1], network=Own())
    assert not (tmp_path / "touched").exists()
    assert "hostile_module" not in sys.modules


def test_a_network_is_given_only_where_one_is_missing(saved, tmp_path):
    with pytest.raises(InputError, match="holds 'mlp', which is part of fmdp: load it without network="):
        fmdp.load(saved, network=Own())
    for path in (tmp_path / "x.npz", tmp_path / "run" / "config.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    for path in (tmp_path / "x.npz", tmp_path / "run"):
        with pytest.raises(InputError, match="only a folder that holds one of your own takes it, leave it out"):
            fmdp.load(path, network=Own())


@pytest.mark.slow
def test_a_run_can_be_loaded_from_its_folder(tmp_path, monkeypatch):
    c = digits.get_config("smoke")
    c.train.steps = 2
    run_config(c, RunDir(tmp_path), "train")
    monkeypatch.chdir(tmp_path.parent)
    loaded = fmdp.load(tmp_path.name)
    assert loaded.image_shape == (8, 8, 1)
    assert loaded.about["name"] == "digits_smoke"
    assert loaded(jnp.zeros((8, 8, 1)), 0.5, 0.5).shape == (8, 8, 1)
    shutil.rmtree(tmp_path / "checkpoints")
    assert fmdp.load(tmp_path).about["steps"] == 2
    for name in (prior_files.WEIGHTS, prior_files.MODEL):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="holds no checkpoint"):
        fmdp.load(tmp_path)


def edit(saved, change):
    model = json.loads((saved / prior_files.MODEL).read_text())
    change(model)
    (saved / prior_files.MODEL).write_text(json.dumps(model))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / prior_files.WEIGHTS).unlink(), "weights.safetensors cannot be read"),
        (lambda path: (path / prior_files.WEIGHTS).write_bytes(b"\xff" * 40), "weights.safetensors cannot be read"),
        (lambda path: (path / prior_files.MODEL).write_text("{"), "model.json is damaged"),
        (lambda path: (path / prior_files.MODEL).unlink(), "holds neither model.json nor"),
        (lambda path: edit(path, lambda m: m.update(format=2)), "is of format 2, this fmdp reads 1"),
        (lambda path: edit(path, lambda m: m["network"].update(width=9)), "has the shape"),
        (lambda path: edit(path, lambda m: m["network"].update(depth=9)), "unknown option of mlp 'depth'"),
        (lambda path: edit(path, lambda m: m.pop("image_shape")), "model.json is damaged"),
        (lambda path: edit(path, lambda m: m.update(image_shape=[4, 7, 1])), "has the shape"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(InputError) as refused:
        fmdp.load(saved)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_that_do_not_exist_list_those_that_do(tmp_path):
    with pytest.raises(InputError, match="no checkpoint 'fashion': name a folder of one, or one of"):
        fmdp.load("fashion")
    with pytest.raises(InputError, match="no checkpoint"):
        fmdp.load("../weights")


def test_an_existing_folder_is_not_overwritten(prior, saved):
    with pytest.raises(InputError, match="tiny exists"):
        prior_files.save(saved, prior)


@pytest.mark.slow
@pytest.mark.parametrize("name", prior_files.shipped())
def test_shipped_priors_are_small_and_restore(name):
    folder = prior_files.SHIPPED_WEIGHTS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16 * 2**20
    assert (folder / "README.md").exists()
    prior = fmdp.load(name)
    assert prior.about["licence"]
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, prior.image_shape[2]))
    assert jnp.isfinite(fmdp.denoise(prior, x, 0.5, 1.0)).all()


def test_the_public_names_are_there():
    assert {"load", "denoise", "restore", "operators", "frontier"} <= set(fmdp.__all__) <= set(dir(fmdp))
    assert all(getattr(fmdp, name) is not None for name in fmdp.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", fmdp.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        getattr(fmdp, "lode")  # noqa: B009
