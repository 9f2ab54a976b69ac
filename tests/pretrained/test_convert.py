import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fmdp
from fmdp import convert
from fmdp.io.torch_files import read_state_dict
from fmdp.pretrained import prior as prior_files
from fmdp.pretrained.pytorch_unet import weight_net_from_state_dict
from tests.support.torch_files import edm_pickle, torch_zip

pytestmark = [pytest.mark.device, pytest.mark.slow]


@pytest.fixture(scope="module")
def arrays(reference):
    return dict(np.load(reference / "unet.npz"))


@pytest.fixture(scope="module")
def snapshot(arrays, tmp_path_factory):
    """The reference's state dict as a released pickle."""
    path = tmp_path_factory.mktemp("released") / "network-snapshot.pkl"
    state = {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")}
    path.write_bytes(edm_pickle(state))
    return path


def test_a_released_pickle_becomes_a_native_checkpoint(arrays, snapshot, tmp_path, capsys):
    convert.main([str(snapshot), str(tmp_path / "native")])
    assert "parameters for images of (16, 16, 3)" in capsys.readouterr().out
    prior = fmdp.load(tmp_path / "native")
    x, expected = (jnp.asarray(arrays[name].transpose(0, 2, 3, 1)) for name in ("in/x", "out/v"))
    s, t = (jnp.asarray(arrays[name].ravel()) for name in ("in/s", "in/t"))
    velocity = jax.jit(lambda *given: prior(*given))(x, s, t)
    np.testing.assert_allclose(velocity, expected, atol=2e-4)
    network, params = weight_net_from_state_dict(read_state_dict(snapshot))
    np.testing.assert_allclose(network.apply({"params": params}, s, t), arrays["out/logvar"].ravel(), atol=2e-4)
    assert prior.image_shape == (16, 16, 3)
    assert {path.name for path in (tmp_path / "native").iterdir()} == {prior_files.WEIGHTS, prior_files.MODEL}


def test_half_precision_is_near(snapshot, tmp_path):
    convert.main([str(snapshot), str(tmp_path / "half"), "--half"])
    whole, half = fmdp.load(snapshot), fmdp.load(tmp_path / "half")
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(half.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-8)
    size = (tmp_path / "half" / prior_files.WEIGHTS).stat().st_size
    assert size < 0.52 * 4 * sum(x.size for x in jax.tree.leaves(whole.params)) + 20_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "neither a pickle"),
        (torch_zip({"conv.weight": np.ones((3, 3), np.float32)}), "this is not a checkpoint of the two-time U-Net"),
    ],
)
def test_what_cannot_be_converted_is_one_line(content, message, tmp_path, capsys):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        convert.main([str(tmp_path / "x.pt"), str(tmp_path / "out")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fmdp: ")
    assert "x.pt" in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_existing_folders_and_missing_files_are_refused(tmp_path, capsys):
    for source, out, message in [("nowhere.pkl", "out", "no checkpoint"), ("nowhere.pkl", "", "exists")]:
        with pytest.raises(SystemExit):
            convert.main([str(tmp_path / source), str(tmp_path / out)])
        assert message in capsys.readouterr().err
