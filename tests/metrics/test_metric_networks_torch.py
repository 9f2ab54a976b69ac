"""The metric networks beside pytorch-fid's and lpips's own, where torch and these packages are installed."""

import hashlib
import pathlib
import warnings

import jax
import numpy as np
import pytest

from fmdp.metrics import convert_weights, weights
from fmdp.metrics.inception import Inception
from fmdp.metrics.lpips import LPIPS
from tests.support.published import IMAGES, STORED, layout, random_arrays, random_images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    pytorch_fid = pytest.importorskip("pytorch_fid.inception")
    lpips = pytest.importorskip("lpips")

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def tensor(images):
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def shapes(state):
    return {name: list(x.shape) for name, x in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def inception():
    """The network of pytorch-fid with our random weights instead of those it would download."""
    state = {name: torch.tensor(x) for name, x in random_arrays("inception").items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *args, **kwargs: state)
        return pytorch_fid.InceptionV3().eval()


def lpips_network(backbone):
    """The network of lpips with our random weights, and the names and shapes of its published files."""
    network = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False).eval()
    arrays = {name: torch.tensor(x) for name, x in random_arrays(f"lpips_{backbone}").items()}
    trunk = {name: arrays[f"features.{name.split('.', 1)[1]}"] for name in network.net.state_dict()}
    network.net.load_state_dict(trunk)
    network.load_state_dict({name: x for name, x in arrays.items() if name.startswith("lin")}, strict=False)
    return network


@pytest.mark.parametrize("shape", [IMAGES["inception"], (2, 37, 53, 3), (1, 401, 299, 3)])
def test_inception(inception, shape):
    images = random_images("inception", shape)
    with torch.no_grad():
        theirs = inception((tensor(images) + 1) / 2)[0][:, :, 0, 0].numpy()
    params = convert_weights.inception_params(random_arrays("inception"))
    ours = jax.jit(Inception().apply)({"params": params}, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    if shape == IMAGES["inception"]:
        np.testing.assert_allclose(theirs[:, ::409], STORED["inception"]["values"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
@pytest.mark.parametrize("shape", [None, (2, 64, 97, 3)])
def test_lpips(backbone, shape):
    name = f"lpips_{backbone}"
    images = random_images(name, shape)
    others = np.roll(images[::-1], 3, axis=1)
    with torch.no_grad():
        theirs = lpips_network(backbone)(tensor(images), tensor(others))[:, 0, 0, 0].numpy()
    network = LPIPS(backbone)
    params = convert_weights.backbone_params(network, random_arrays(name))
    np.testing.assert_allclose(jax.jit(network.apply)({"params": params}, images, others), theirs, rtol=1e-4)
    if shape is None:
        np.testing.assert_allclose(theirs, STORED[name]["values"], rtol=1e-4)


def test_the_stored_layouts_are_those_of_the_networks(monkeypatch):
    import torchvision

    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *args, **kwargs: {})
    grabbed = {}
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, *args: grabbed.update(self.state_dict()))
    pytorch_fid.fid_inception_v3()
    assert shapes(grabbed) == layout("inception")
    monkeypatch.undo()
    for backbone, model in {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}.items():
        trunk = {k: x for k, x in model(weights=None).state_dict().items() if k.startswith("features")}
        assert shapes(trunk | torch.load(lin_file(backbone), map_location="cpu")) == layout(f"lpips_{backbone}")


def lin_file(backbone):
    return pathlib.Path(lpips.__file__).parent / "weights" / "v0.1" / f"{backbone}.pth"


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_the_linear_layers_of_an_installed_lpips_are_found_and_are_the_published_ones(backbone):
    file = weights.SOURCES[f"lpips_{backbone}"].releases[1].files[1]
    assert lin_file(backbone) in [folder / file.pattern for folder in weights._folders()]
    assert hashlib.sha256(lin_file(backbone).read_bytes()).hexdigest().startswith(file.digest)


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_the_linear_layers_of_an_installed_lpips_are_read_as_torch_reads_them(backbone):
    pytest.importorskip("fmdp.io.torch_files", exc_type=ImportError)
    theirs = torch.load(lin_file(backbone), map_location="cpu")
    ours = weights.read_torch(lin_file(backbone))
    assert set(ours) == set(theirs)
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x.numpy())
