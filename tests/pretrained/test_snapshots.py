"""Snapshots as the published training scripts write them: with parts for training only, of two kinds, compressed."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import fmdp
from fmdp import convert
from fmdp.errors import InputError
from fmdp.io.torch_files import read_state_dict
from fmdp.pretrained import prior as prior_files
from fmdp.pretrained.pytorch_unet import unet_from_state_dict, weight_net_from_state_dict
from tests.support.released import released
from tests.support.torch_files import edm_pickle, torch_zip

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.usefixtures("cheap_compilation")]

RNG = np.random.default_rng(0)
ARRAYS = {f"model.{name}": array for name, array in released().items()}
AUGMENT = {"model.map_augment.weight": RNG.normal(size=(8, 9)).astype(np.float32)}
LABEL = {
    f"model.map_label.{name}": np.ones(shape, np.float32) for name, shape in dict(weight=(8, 3), bias=(8,)).items()
}
WEIGHT_NET = {"weight_net.conv1.weight": RNG.normal(size=(128, 2, 3, 3)).astype(np.float32)}


def write(folder, content, name="snapshot.pkl"):
    (folder / name).write_bytes(content)
    return folder / name


def velocity(prior):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 1)), jnp.float32)
    return np.asarray(jax.jit(lambda prior: prior(x, jnp.array([0.0, 0.2, 0.5]), jnp.array([0.0, 1.0, 0.7])))(prior))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The velocity of the flow map without anything beside it."""
    return velocity(fmdp.load(write(tmp_path_factory.mktemp("plain"), edm_pickle(ARRAYS))))


@pytest.mark.parametrize("extra", [AUGMENT, AUGMENT | LABEL | WEIGHT_NET])
@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress])
def test_parts_that_a_flow_map_does_not_read_are_left_out_and_named(extra, pack, plain, tmp_path, capsys):
    source = write(tmp_path, pack(edm_pickle(ARRAYS | extra)))
    convert.main([str(source), str(tmp_path / "out")])
    said = capsys.readouterr().out
    prior = fmdp.load(tmp_path / "out")
    np.testing.assert_array_equal(velocity(prior), plain)
    assert "left out" in said
    assert "map_augment (72 parameters)" in said
    assert ("weight_net (2,304 parameters)" in said) == ("map_label (32 parameters)" in said) == (extra != AUGMENT)
    assert prior.about["kind"] == "flow_map"
    assert prior.about["left_out"]["map_augment"] == 72


def test_a_checkpoint_without_such_parts_says_nothing_of_them(tmp_path, capsys):
    convert.main([str(write(tmp_path, edm_pickle(ARRAYS))), str(tmp_path / "out")])
    assert "left out" not in capsys.readouterr().out


def test_meanflow_is_minus_its_network_with_sines_first(tmp_path):
    """Against the conditioning itself, which tests/networks/test_unet.py holds to its formula."""
    changed = dict(ARRAYS)
    sines, cosines = np.split(changed["model.map_layer0.weight"], 2, axis=1)
    changed["model.map_layer0.weight"] = np.concatenate([cosines, sines], axis=1)
    network, params = unet_from_state_dict(changed)
    theirs = prior_files.Prior(
        params=params, network=network.clone(meanflow=True), image_shape=(8, 8, 1), about=prior_files.PriorMetadata()
    )
    source = write(tmp_path, edm_pickle(ARRAYS | AUGMENT, network_class="MFPrecond"))
    convert.main([str(source), str(tmp_path / "out")])
    found = fmdp.load(tmp_path / "out")
    assert (found.about["kind"], found.network.meanflow) == ("meanflow", True)
    np.testing.assert_allclose(velocity(found), -velocity(theirs), atol=1e-5)


def test_files_that_do_not_say_need_a_kind(plain, tmp_path, capsys):
    save_file(ARRAYS, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **ARRAYS)
    write(tmp_path, torch_zip(ARRAYS), "x.pt")
    for name in ("x.safetensors", "x.npz", "x.pt"):
        out = tmp_path / f"{name}.out"
        assert f"{name}: the file does not say" in refused(capsys, tmp_path / name, out)
        assert "--kind=flow_map" in refused(capsys, tmp_path / name, out)
        convert.main([str(tmp_path / name), str(out), "--kind=flow_map"])
        np.testing.assert_array_equal(velocity(fmdp.load(out)), plain)
        assert fmdp.load(tmp_path / name, kind="meanflow").network.meanflow


def refused(capsys, source, out, *flags):
    """The one line that the command ends in."""
    with pytest.raises(SystemExit) as ended:
        convert.main([str(source), str(out), *flags])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fmdp: ")
    assert line.isprintable()
    assert not out.exists()
    return line


REFUSED = {
    "another class": (dict(network_class="EDMPrecond\n"), [], r"only that its network is of the class EDMPrecond\n,"),
    "the other kind": ({}, ["--kind=meanflow"], "says that its network is of the kind flow_map (AMFPrecond)"),
    "an unknown kind": ({}, ["--kind=flowmap"], "unknown kind of network 'flowmap', did you mean 'flow_map'?"),
    "a switch": (
        dict(switches=("homogeneous_norm",)),
        [],
        "made with homogeneous_norm=True, which fmdp does not support",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_such_a_network_is_refused_by_name(case, tmp_path, capsys):
    made, flags, message = REFUSED[case]
    source = write(tmp_path, edm_pickle(ARRAYS, **made))
    assert message in refused(capsys, source, tmp_path / "out", *flags)


def test_meanflow_networks_of_other_forms_are_refused(tmp_path, capsys):
    labelled = write(tmp_path, edm_pickle(ARRAYS | LABEL, network_class="MFPrecond"))
    assert "with labels (map_label) is not supported" in refused(capsys, labelled, tmp_path / "out")
    scaled = {name: np.concatenate([array, array]) if ".affine." in name else array for name, array in ARRAYS.items()}
    adaptive = write(tmp_path, edm_pickle(scaled, network_class="MFPrecond"))
    assert "with adaptive scales is not supported" in refused(capsys, adaptive, tmp_path / "out")
    assert fmdp.load(write(tmp_path, edm_pickle(scaled))).network.adaptive


def test_a_kind_belongs_to_released_files_only():
    with pytest.raises(InputError, match="only a released checkpoint has a kind, leave it out"):
        fmdp.load("fashion_mnist", kind="flow_map")


# The snapshots that the published program itself wrote.


@pytest.fixture(scope="module")
def snapshots(reference):
    folder = reference / "snapshots"
    if not folder.is_dir():
        pytest.skip("the reference arrays have no snapshots")
    return folder, dict(np.load(folder / "snapshots.npz"))


def tolerance(on_a_cpu, elsewhere=2e-5):
    return on_a_cpu if jax.default_backend() == "cpu" else elsewhere


def reference_velocity(prior, arrays, t):
    x = jnp.asarray(arrays["in/x"].transpose(0, 2, 3, 1))
    return np.asarray(jax.jit(lambda *given: prior(*given))(x, jnp.asarray(arrays["in/s"]), jnp.asarray(t)))


CONVERTED = {
    "flow_map-snapshot-000005.pkl": ("flow_map", "weight_net (297,344 parameters)"),
    "flow_map-training-state-000005.pt": ("flow_map", "weight_net (297,344 parameters)"),
    "meanflow-snapshot-000005.pkl": ("meanflow", "map_augment (288 parameters)"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_published_snapshots_give_their_velocities(name, snapshots, tmp_path, capsys):
    folder, arrays = snapshots
    kind, left_out = CONVERTED[name]
    convert.main([str(folder / name), str(tmp_path / "out")])
    assert left_out in capsys.readouterr().out
    prior = fmdp.load(tmp_path / "out")
    pairs = [(arrays["in/t"], "v")] + ([(arrays["in/s"], "v_diagonal")] if kind == "meanflow" else [])
    for t, stored in pairs:
        expected = arrays[f"out/{kind}/{stored}"].transpose(0, 2, 3, 1)
        found = reference_velocity(prior, arrays, t)
        np.testing.assert_allclose(found, expected, atol=tolerance(1e-5 * expected.std()), rtol=0)


def test_published_snapshots_give_their_log_variances(snapshots):
    folder, arrays = snapshots
    s, t = (jnp.asarray(arrays[name]) for name in ("in/s", "in/t"))
    for name in ("flow_map-snapshot-000005.pkl", "flow_map-training-state-000005.pt"):
        network, params = weight_net_from_state_dict(read_state_dict(folder / name))
        found = jax.jit(network.apply)({"params": params}, s, t)
        np.testing.assert_allclose(found, arrays["out/flow_map/logvar"], atol=tolerance(3e-8, 2e-7))
