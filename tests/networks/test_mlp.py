import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fmdp import networks
from fmdp.errors import InputError
from fmdp.networks.embedding import fourier_features
from fmdp.networks.mlp import MLP

pytestmark = pytest.mark.device

X = jax.random.normal(jax.random.key(0), (5, 2, 3, 1))


def perturbed(network):
    """The network at random parameters."""
    flat, unravel = ravel_pytree(network.init(jax.random.key(1), X, 0.0, 0.0))
    params = unravel(flat + 0.3 * jax.random.normal(jax.random.key(2), flat.shape))
    return jax.jit(lambda x, s, t: network.apply(params, x, s, t))


@pytest.mark.slow
def test_zero_at_first_and_one_image_as_in_a_batch():
    network = MLP(width=8, blocks=1)
    assert not network.apply(network.init(jax.random.key(1), X, 0.0, 0.0), X, 0.2, 0.7).any()
    field, s = perturbed(network), jnp.linspace(0.1, 0.6, 5)
    batch = field(X, s, s + 0.3)
    assert jnp.abs(batch).max() > 0.1
    for i in range(5):
        np.testing.assert_allclose(field(X[i], s[i], s[i] + 0.3), batch[i], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_output_gains_make_a_linear_map_that_varies_in_time():
    field = perturbed(MLP(width=8, blocks=0, output_gain=True))
    plain = perturbed(MLP(width=8, blocks=0))

    def slope(field, s, t):
        zero = field(jnp.zeros_like(X), s, t)
        np.testing.assert_allclose(field(2 * X, s, t) - zero, 2 * (field(X, s, t) - zero), rtol=1e-4, atol=1e-4)
        return field(X, s, t) - zero

    assert jnp.abs(slope(field, 0.2, 0.9) - slope(field, 0.6, 0.9)).max() > 0.05
    np.testing.assert_allclose(slope(plain, 0.2, 0.9), slope(plain, 0.6, 0.9), atol=1e-5)


def test_dropout_only_with_a_key():
    params = jax.tree.map(lambda x: x + 0.3, MLP(width=8, blocks=1).init(jax.random.key(1), X, 0.0, 0.0))
    plain, network = MLP(width=8, blocks=1), MLP(width=8, blocks=1, dropout=0.5)
    programs = [str(jax.make_jaxpr(n.apply)(params, X, 0.2, 0.7)) for n in (plain, network)]
    assert programs[0] == programs[1]
    dropped = [network.apply(params, X, 0.2, 0.7, rngs={"dropout": jax.random.key(i)}) for i in range(2)]
    assert jnp.abs(dropped[0] - dropped[1]).max() > 0.1


def test_features_change_little_where_the_times_meet():
    step = fourier_features(jnp.asarray(0.02), 8) - fourier_features(jnp.asarray(0.0), 8)
    assert jnp.abs(step).max() < 0.17  # 8 * .02, the steepest of them
    assert fourier_features(jnp.zeros((4, 3)), 8).shape == (4, 3, 17)


def test_backbones_are_made_by_name():
    assert networks.make_backbone("mlp", dict(width=8)).width == 8
    with pytest.raises(InputError, match=r"'mpl'.*mlp, unet"):
        networks.make_backbone("mpl", {})
    with pytest.raises(InputError, match=r"unknown option of mlp 'widht', did you mean 'width'"):
        networks.make_backbone("mlp", dict(widht=8))
    with pytest.raises(InputError, match=r"config.network.norm = 'batch': must be one of group, pixel, none"):
        networks.make_backbone("unet", dict(norm="batch"))


@pytest.mark.parametrize("norm", networks.NORMS)
def test_the_options_of_a_backbone_make_it_again(norm):
    options = networks.backbone_options(networks.UNet(norm=norm))
    assert options["norm"] == norm
    assert networks.make_backbone(options.pop("name"), options).norm == norm
