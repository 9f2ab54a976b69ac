import jax
import numpy as np
import pytest

from fmdp.errors import InputError
from fmdp.metrics import convert_weights
from fmdp.metrics.inception import Inception
from fmdp.metrics.lpips import LPIPS
from tests.support.published import STORED, layout, random_arrays, random_images

pytestmark = pytest.mark.device


def apply(network, params, *images):
    return jax.jit(network.apply)({"params": params}, *images)


@pytest.mark.slow
def test_inception_gives_the_features_of_the_independent_network():
    params = convert_weights.inception_params(random_arrays("inception"))
    assert set(params) == set(STORED["inception"]["kernels"])
    features = apply(Inception(), params, random_images("inception"))
    assert features.shape == (2, 2048)
    np.testing.assert_allclose(features[:, ::409], STORED["inception"]["values"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_lpips_is_the_distance_of_the_independent_network(backbone):
    network, name = LPIPS(backbone), f"lpips_{backbone}"
    params = convert_weights.backbone_params(network, random_arrays(name))
    assert len(params) == len(STORED[name]["kernels"])
    images = random_images(name)
    others = np.roll(images[::-1], 3, axis=1)
    np.testing.assert_allclose(apply(network, params, images, others), STORED[name]["values"], rtol=1e-3)
    np.testing.assert_allclose(apply(network, params, images, images), 0, atol=1e-12)


@pytest.mark.parametrize(("backbone", "least"), [("alex", 31), ("vgg", 16)])
def test_lpips_refuses_images_that_its_pools_would_use_up(backbone, least):
    network = LPIPS(backbone)

    def maps(height, width):
        image = jax.ShapeDtypeStruct((1, height, width, 3), np.float32)
        return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x, method="features")[0], image)

    assert maps(least, least)[-1].shape[1:3] == (1, 1)
    with pytest.raises(InputError, match=f"needs images of {least} pixels a side, not 64x{least - 1}"):
        maps(64, least - 1)


def zeros(network):
    return {name: np.zeros(shape, np.float32) for name, shape in layout(network).items()}


def test_another_network_is_refused_by_the_array_that_differs():
    with pytest.raises(InputError, match=r"fc.weight has the shape \(1000, 2048\); the network takes \(1008"):
        convert_weights.inception_params(zeros("inception") | {"fc.weight": np.zeros((1000, 2048))})
    lacking = zeros("inception")
    del lacking["Mixed_6c.branch7x7_2.bn.running_var"]
    with pytest.raises(InputError, match=r"Mixed_6c.branch7x7_2.bn.running_var is missing"):
        convert_weights.inception_params(lacking)
    with pytest.raises(InputError, match=r"features.0.weight has the shape \(64, 3, 3, 3\)"):
        convert_weights.backbone_params(LPIPS("alex"), zeros("lpips_vgg"))
    with pytest.raises(InputError, match=r"lin2.model.1.weight is missing"):
        convert_weights.backbone_params(LPIPS("vgg"), {k: v for k, v in zeros("lpips_vgg").items() if "lin2" not in k})
