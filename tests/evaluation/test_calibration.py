import json

import numpy as np
import pytest

from fmdp.evaluation.calibration import Calibration

KNOBS = np.linspace(0, 1, 11)


def curve(noise_level, knobs=KNOBS):
    """Errors like those of a Gaussian: quadratic in the knob, steeper with more noise."""
    return 0.1 * (1 + noise_level * knobs**2)


def images(noise_level, n, seed):
    """Per-image errors whose spread is mostly common to all knobs."""
    rng = np.random.default_rng(seed)
    return curve(noise_level) * np.exp(0.5 * rng.normal(size=(n, 1)) + 0.02 * rng.normal(size=(n, len(KNOBS))))


@pytest.fixture
def calibration():
    levels = [0.7, 0.3, 0.5]  # out of order
    return Calibration.fit(levels, KNOBS, [curve(a) for a in levels], [1 - KNOBS**2 for _ in levels])


@pytest.mark.parametrize("decibels", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("noise_level", [0.3, 0.5, 0.7])
def test_a_budget_is_spent_exactly(calibration, noise_level, decibels):
    knob = calibration.knob_for_loss(noise_level, decibels)
    assert 10 * np.log10(1 + noise_level * knob**2) == pytest.approx(decibels, abs=0.005)
    assert calibration.loss_at(noise_level, knob) == pytest.approx(decibels, abs=1e-9)


def test_knob_is_monotone_in_the_budget_and_its_ends_are_met(calibration):
    most = 10 * np.log10(1.5)
    settings = [calibration.knob_for_loss(0.5, b) for b in np.linspace(0, most, 40)]
    assert np.all(np.diff(settings) > 0)
    assert (settings[0], settings[-1]) == (0, 1)


def test_perception_target(calibration):
    assert calibration.knob_for_perception(0.5, 0.51) == pytest.approx(0.7, abs=1e-9)
    assert calibration.knob_for_perception(0.5, 0.0) == 1
    assert calibration.knob_for_perception(0.5, 2.0) == 0  # met by the minimum-error estimate already


@pytest.mark.parametrize("noise_level", [0.31, 0.45, 0.65])
def test_between_noise_levels_every_budget_up_to_the_whole_loss_is_spent(calibration, noise_level):
    most = calibration.loss_at(noise_level, 1.0)
    assert most == pytest.approx(10 * np.log10(1 + noise_level), abs=0.02)
    for budget in np.linspace(0, most, 9):
        knob = calibration.knob_for_loss(noise_level, budget)
        assert calibration.loss_at(noise_level, knob) == pytest.approx(budget, abs=1e-9)
    with pytest.raises(ValueError, match=f"cannot be spent at noise level {noise_level}"):
        calibration.knob_for_loss(noise_level, most + 0.01)
    assert calibration.knob_for_perception(noise_level, 0.51) == pytest.approx(0.7, abs=1e-9)


def test_a_stored_calibration_has_the_same_knobs_at_every_level(calibration):
    stored = calibration.to_dict()
    stored["levels"][0]["knobs"] = [2 * knob for knob in stored["levels"][0]["knobs"]]
    with pytest.raises(ValueError, match="different knobs"):
        Calibration.from_dict(stored)


def test_noise_is_ironed_out_and_a_flat_stretch_goes_to_its_far_end():
    mse = np.array([1.0, 1.2, 1.1, 1.15, 1.5])
    fitted = Calibration.fit([0.5], np.arange(5.0), mse[None])
    assert np.all(np.diff(fitted.levels[0].loss) >= 0)
    flat = Calibration.fit([0.5], np.arange(4.0), np.array([[1.0, 1.2, 1.2, 1.5]]), [[3.0, 2.0, 2.0, 1.0]])
    assert flat.knob_for_loss(0.5, 10 * np.log10(1.2)) == pytest.approx(2)
    assert flat.knob_for_perception(0.5, 2.0) == pytest.approx(1)


def test_held_out_images_lose_what_was_asked():
    levels = [0.3, 0.7]
    fitted = Calibration.fit(levels, KNOBS, [images(a, 300, 0) for a in levels])
    other = [images(a, 300, 1) for a in levels]
    measured = fitted.with_error(other)
    for level, own, errors in zip(measured.levels, fitted.levels, other, strict=True):
        assert 0 < level.loss_error < 0.03
        assert 0 < own.loss_error < 0.05  # by cross-validation
        for budget in (0.25, 0.5, 1.0):
            knob = fitted.knob_for_loss(level.noise_level, budget)
            psnr = -10 * np.log10(errors).mean(0)
            assert psnr[0] - np.interp(knob, KNOBS, psnr) == pytest.approx(budget, abs=0.1)
    wrong = fitted.with_error([images(2 * a, 300, 1) for a in levels])
    assert min(level.loss_error for level in wrong.levels) > 0.5


def test_survives_json(calibration):
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert again.knob_for_loss(0.5, 0.4) == calibration.knob_for_loss(0.5, 0.4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: c.knob_for_loss(0.5, 3.0), "budget of 3 dB .* from 0 to 1.76 dB"),
        (lambda c: c.knob_for_loss(0.5, -1.0), "budget of -1 dB"),
        (lambda c: c.knob_for_loss(0.9, 0.5), r"noise level 0.9 is not calibrated: choose 0.3 to 0.7"),
        (lambda c: c.knob_for_perception(0.5, -0.1), "perception of -0.1 cannot be met .* reaches 0 at best"),
        (lambda c: Calibration.fit([0.5], KNOBS, curve(0.5)[None]).knob_for_perception(0.5, 0.1), "no perception"),
        (lambda c: Calibration.fit([0.5], [0.0, 0.0], [[1.0, 1.0]]), "must ascend"),
        (lambda c: Calibration.fit([0.5], KNOBS, np.ones((2, 11))), r"shape \(2, 11\)"),
        (lambda c: Calibration.fit([0.5], KNOBS, np.zeros((1, 11))), "0 has no PSNR"),
        (lambda c: Calibration.fit([0.5], KNOBS, np.ones((1, 11)), np.ones(11)), r"perception of shape \(11,\)"),
        (lambda c: Calibration.from_dict({"levels": [{"knobs": [1]}]}), "not a stored calibration"),
    ],
)
def test_bad_input(calibration, act, message):
    with pytest.raises(ValueError, match=message):
        act(calibration)
