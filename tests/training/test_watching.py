"""What is measured on held-out images during training."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.config.validation import validate
from fmdp.errors import InputError
from fmdp.exact import Gaussian
from fmdp.flow import residuals
from fmdp.flow.average_field import denoise
from fmdp.flow.interpolant import interpolate
from fmdp.metrics.distortion import mse
from fmdp.training import averages, loop, watching
from fmdp.training.state import TrainState, make_field, make_network
from tests.support.zero_field import Zero
from tests.training.test_loop import IMAGES, leaves, small_config

pytestmark = pytest.mark.usefixtures("cheap_compilation")

HELD_OUT = IMAGES[::-1][:10].copy()


def watched_lines(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: {k: v for k, v in line.items() if k.startswith(watching.GROUP)} for line in lines}


def watched_config(every=4, **parallel):
    c = small_config()
    c.train.update(watch_every=every, watch_images=6)
    c.parallel.update(parallel)
    return c


def direct(field, images):
    """The numbers of `watching.measure`, one after another."""
    noise = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    images, numbers = jnp.asarray(images), {}
    for alpha in (0.3, 0.7):
        s = jnp.float32(1 - alpha)
        x = interpolate(jnp.asarray(noise), images, s)
        restored = denoise(field, x, s, 1.0)
        numbers |= {
            f"held_out/mse_at_s_alpha_{alpha}": mse(denoise(field, x, s, s), images).mean(),
            f"held_out/mse_at_1_alpha_{alpha}": mse(restored, images).mean(),
            f"held_out/variance_ratio_at_1_alpha_{alpha}": restored.var(0).sum() / images.var(0).sum(),
            f"held_out/semigroup_at_1_alpha_{alpha}": residuals.semigroup(field, x, s, (s + 1) / 2, 1.0).mean(),
        }
    return {name: float(x) for name, x in numbers.items()}


@pytest.mark.device
def test_the_exact_field_of_a_gaussian_has_its_errors_in_closed_form():
    """Variance v under noise 1 - s: the errors of the mean and of the end point of the flow, which is consistent."""
    v, images = 0.25, np.random.default_rng(1).normal(0.0, 0.5, (3000, 4, 4, 1)).astype(np.float32)
    found = watching.measure(Gaussian(jnp.zeros((4, 4, 1)), v).average_field, images, 1000)
    for alpha in watching.NOISE_LEVELS:
        s = 1 - alpha
        noisy = s**2 * v + alpha**2
        assert found[f"held_out/mse_at_s_alpha_{alpha}"] == pytest.approx(v * alpha**2 / noisy, rel=0.02)
        assert found[f"held_out/mse_at_1_alpha_{alpha}"] == pytest.approx(
            2 * v * (1 - s * (v / noisy) ** 0.5), rel=0.02
        )
        assert found[f"held_out/variance_ratio_at_1_alpha_{alpha}"] == pytest.approx(1, rel=0.02)
        assert found[f"held_out/semigroup_at_1_alpha_{alpha}"] == pytest.approx(0, abs=1e-9)
    assert len(found) == 8


@pytest.mark.device
def test_a_field_that_is_zero_gives_back_its_noise():
    images = HELD_OUT
    noise = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    found = watching.measure(Zero(images.shape[1:]), images, 4)
    for alpha in watching.NOISE_LEVELS:
        error = alpha**2 * np.square(noise - images).mean()
        assert found[f"held_out/mse_at_s_alpha_{alpha}"] == pytest.approx(error, rel=1e-5)
        assert found[f"held_out/mse_at_1_alpha_{alpha}"] == pytest.approx(error, rel=1e-5)


@pytest.mark.device
@pytest.mark.slow
@pytest.mark.parametrize("parallel", [{}, {"mode": "pmap"}, {"fsdp": True}])
def test_a_run_logs_the_numbers_of_its_average_and_is_not_changed(parallel, tmp_path, capsys):
    c = watched_config(**parallel)
    state, _ = loop.fit(c, IMAGES, tmp_path / "watched", HELD_OUT)
    lines = watched_lines(tmp_path / "watched")
    assert [step for step, line in lines.items() if line] == [4, 8]
    field = make_field(make_network(c), jax.device_get(state.ema))
    assert lines[8] == pytest.approx(direct(field, HELD_OUT[:6]), rel=1e-4)
    assert lines[4] != lines[8]
    shown = "held-out MSE {:.3f} at t = s, {:.3f} at 1".format(*(lines[8][name] for name in watching.SHOWN))
    assert shown in capsys.readouterr().err
    plain, _ = loop.fit(watched_config(0, **parallel), IMAGES, tmp_path / "plain", HELD_OUT)
    for a, b in zip(leaves(state), leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.device
@pytest.mark.slow
def test_a_resumed_run_logs_the_same_numbers(tmp_path):
    c = watched_config(every=3)  # not only where metrics are due
    loop.fit(c, IMAGES, tmp_path, HELD_OUT)
    lines = watched_lines(tmp_path)
    assert [step for step, line in lines.items() if line] == [3, 6]
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    loop.fit(c, IMAGES, tmp_path, HELD_OUT)
    assert watched_lines(tmp_path) == lines


@pytest.mark.slow
@pytest.mark.parametrize(("every", "held_out"), [(0, HELD_OUT), (4, None), (500, HELD_OUT)])
def test_nothing_is_compiled_for_a_run_that_is_not_watched(every, held_out, tmp_path):
    watching._measure.clear_cache()
    loop.fit(watched_config(every), IMAGES, tmp_path, held_out)
    assert watching._measure._cache_size() == 0
    assert not any(watched_lines(tmp_path).values())


def test_measuring_has_no_more_images_in_memory_than_training(monkeypatch):
    c, sizes = watched_config(), []
    c.train.update(batch_size=8, grad_accumulation_steps=4)
    monkeypatch.setattr(watching, "measure", lambda field, images, size: sizes.append(size) or {})
    monkeypatch.setattr(averages, "validation_error", lambda field, images, size: sizes.append(size) or 1.0)
    watching.Watch(c, HELD_OUT).measure({})
    averages.choose(c, TrainState(step=8, params={}, ema={}, opt_state={}, skipped=0), HELD_OUT)
    assert sizes == [2, 2]


def test_numbers_that_watch_nothing_are_refused():
    for key, value in (("watch_every", -1), ("watch_images", 0)):
        c = watched_config()
        c.train[key] = value
        with pytest.raises(InputError, match=rf"config\.train\.{key} = {value}: must be"):
            validate(c)
