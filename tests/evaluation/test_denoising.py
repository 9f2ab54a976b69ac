import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp import data
from fmdp.config.defaults import default_config
from fmdp.evaluation import denoising, known_target
from fmdp.exact import Gaussian, GaussianMixture
from fmdp.io.dataclass_json import to_json
from fmdp.reporting import curves

pytestmark = [pytest.mark.device, pytest.mark.slow]

KEY = jax.random.key(2)
TARGET = Gaussian(np.zeros((2, 2, 1)), 0.3 * np.eye(4))


def exact_field(x, s, t):
    return TARGET.average_field(x, s, t)


FIELD = jax.tree_util.Partial(exact_field)


@pytest.fixture(scope="module")
def swept():
    """Sweeps of the exact field on samples of its own target."""
    c = default_config().evaluate
    c.update(
        points=5,
        noise_draws=2,
        batch_size=300,
        baseline_images=500,
        baseline_steps=60,
        bootstrap=20,
        noise_levels=(0.4, 0.6),
    )
    train, test = (np.asarray(TARGET.sample(jax.random.key(seed), 500)) for seed in (0, 1))
    split = data.Split(train, test, np.zeros(500, int), np.zeros(500, int), "", TARGET)
    result, sweeps = denoising.evaluate_denoising(FIELD, split, c, KEY)
    return c, split, to_json(result), sweeps


def curve(summary, knob, level=0.4):
    (found,) = [c for c in summary["denoise"] if c["knob"] == knob and c["noise_level"] == level]
    return found


def test_curve_of_the_exact_field_is_the_closed_form(swept):
    _, _, summary, _ = swept
    for knob in ("lookahead", "chord"):
        points = curve(summary, knob)["points"]
        for point, t in ((points[0], 0.6), (points[-1], 1.0)):
            assert point["mse"] == pytest.approx(float(TARGET.mse(0.6, t)), rel=0.06)
    middle = curve(summary, "lookahead")["points"][2]
    assert middle["mse"] == pytest.approx(float(TARGET.mse(0.6, middle["t"])), rel=0.06)
    assert curve(summary, "lookahead")["points"][-1]["variance_ratio"] == pytest.approx(1, abs=0.06)


def test_baselines_meet_their_known_errors_and_costs(swept):
    _, _, summary, _ = swept
    mmse = float(TARGET.mmse(0.6))
    samples = curve(summary, "mean_of_samples")["points"]
    assert [point["evaluations"] for point in samples] == [60, 120, 240, 480]
    for point in samples:
        assert point["mse"] == pytest.approx((1 + 1 / point["setting"]) * mmse, rel=0.1)
    blend = curve(summary, "blend")["points"]
    assert [point["evaluations"] for point in blend] == [1, 61, 61, 61, 60]
    assert blend[0]["mse"] == pytest.approx(mmse, rel=0.06)
    assert [point["evaluations"] for point in curve(summary, "chord")["points"]] == [1, 2, 2, 2, 1]


def test_the_knob_is_continuous_where_it_starts(swept):
    _, _, summary, _ = swept
    assert {c["knob"] for c in summary["denoise"] if "first_step" in c} == {"lookahead"}
    assert curve(summary, "lookahead", 0.6)["first_step"]["t"] == pytest.approx(0.42)
    assert abs(curve(summary, "lookahead")["first_step"]["relative_mse_change"]) < 0.01


def test_the_first_step_ends_where_the_lookahead_does(swept):
    c, split, _, _ = swept
    few = c.copy_and_resolve_references()
    few.update(points=2, baseline_images=0)
    level = denoising.sweep_noise_level(FIELD, split.test[:4], 0.01, few, KEY)
    lookahead, _ = denoising.measure_sweep(level, 0.01, jnp.asarray(split.test[:4]), lambda x, clean: [{}] * len(x))
    np.testing.assert_array_equal(level.step, level.curves["lookahead"].restored[-1])
    assert lookahead.first_step.t == lookahead.points[-1].t == 1.0


def test_residuals_of_an_exact_field_vanish(swept):
    _, _, summary, _ = swept
    for row in summary["residuals"]:
        for name in ("lagrangian", "eulerian", "semigroup", "field_error"):
            assert row[name] < 1e-4


def test_residuals_take_fewer_images_at_once_than_the_sweep(swept):
    c, split, _, _ = swept
    seen = []

    def field(x, s, t):
        seen.append(x.size // 4)
        return exact_field(x, s, t)

    c = c.copy_and_resolve_references()
    c.update(points=2, noise_draws=1, batch_size=40, baseline_images=0, bootstrap=2, noise_levels=(0.4,))
    few = split._replace(test=split.test[:60], test_labels=split.test_labels[:60])
    denoising.evaluate_denoising(jax.tree_util.Partial(field), few, c, KEY)
    count = jax.device_count()
    assert max(seen) == -(-40 // count) * count
    assert seen[-1] == -(-8 // count) * count


def test_ragged_batches_change_nothing(swept):
    c, split, _, sweeps = swept
    whole = c.copy_and_resolve_references()
    whole.update(batch_size=1000, baseline_images=0)
    again = denoising.sweep_noise_level(FIELD, split.test, 0.4, whole, jax.random.fold_in(KEY, 0))
    np.testing.assert_allclose(again.curves["lookahead"].restored, sweeps[0].curves["lookahead"].restored, atol=1e-5)
    assert set(again.curves) == {"lookahead", "chord"}


def test_restorations_are_dropped_once_they_are_measured(swept, tmp_path):
    c, split, _, sweeps = swept
    few = denoising.keep_images(sweeps[0], 3)
    assert few.kept.tolist() == [0, (len(split.test) - 1) // 2, len(split.test) - 1]
    for name in ("lookahead", "chord"):
        whole = sweeps[0].curves[name]
        np.testing.assert_array_equal(few.curves[name].restored, whole.restored[:, :, few.kept])
        np.testing.assert_array_equal(few.curves[name].mse, whole.mse)
    fitted, _ = denoising.calibrate_lookahead(FIELD, split.test, [denoising.keep_images(s, 3) for s in sweeps], c)
    assert fitted == denoising.calibrate_lookahead(FIELD, split.test, sweeps, c)[0]
    curves.draw_denoising(tmp_path / "few.png", split.test, [few], 3)
    curves.draw_denoising(tmp_path / "all.png", split.test, sweeps[:1], 3)
    assert (tmp_path / "few.png").read_bytes() == (tmp_path / "all.png").read_bytes()


def test_a_budget_in_decibels_is_met_on_other_images(swept):
    c, split, _, sweeps = swept
    calibration, trials = denoising.calibrate_lookahead(FIELD, split.test, sweeps, c)
    assert len(calibration.levels) == 2
    reached = [trial for trial in trials if trial.setting is not None]
    assert len(reached) >= 4
    for trial in reached:
        assert trial.achieved_db == pytest.approx(trial.budget_db, abs=0.1)


def test_an_image_with_several_draws_is_on_one_side_of_the_validation(swept):
    c, split, _, sweeps = swept
    c = c.copy_and_resolve_references()
    c.noise_levels = (0.4,)
    rng, curve = np.random.default_rng(0), sweeps[0].curves["lookahead"]
    mse = 1 + 0.02 * rng.random((len(curve.settings), 1, 10)).cumsum(0)  # no budget can be spent: nothing is restored

    def error(draws):
        repeated = curve._replace(mse=np.repeat(mse, draws, 1))
        level = sweeps[0]._replace(curves={"lookahead": repeated}, noisy=sweeps[0].noisy[:1, :10])
        fitted, _ = denoising.calibrate_lookahead(FIELD, split.test[:10], [level], c)
        return fitted.levels[0].loss_error

    assert error(3) == pytest.approx(error(1), rel=1e-9)


def test_truth_places_an_exact_field_on_itself(swept):
    _, split, _, sweeps = swept
    for level in to_json(known_target.compare_to_exact(TARGET, split.test, sweeps, jax.random.key(3))):
        assert max(row["relative"] for row in level["field_error"]) < 1e-4
        by_name = {(c["field"], c["knob"]): c["points"] for c in level["curves"]}
        for exact, learned in zip(by_name["exact", "lookahead"], by_name["learned", "lookahead"], strict=True):
            assert learned["mse"] == pytest.approx(exact["mse"], rel=1e-4)
            assert exact["excess"]["high"] is None or exact["excess"]["high"] < 0.05
        assert level["squared_p_star"]["low"] == pytest.approx(float(TARGET.p_star(level["s"])) ** 2, rel=1e-5)
        assert level["frontier"][0]["mse"] == pytest.approx(float(TARGET.mse(level["s"], 1.0)), rel=1e-4)


def test_the_least_error_has_samples_of_its_own(monkeypatch):
    target = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None], (1, 1, 2))
    keys = []
    fresh = known_target._fresh
    monkeypatch.setattr(known_target, "_fresh", lambda target, key, n: keys.append(key) or fresh(target, key, n))
    monkeypatch.setattr(GaussianMixture, "mmse", lambda self, key, *_: keys.extend(jax.random.split(key)) or (0.5, 0.1))
    clean = np.asarray(target.sample(KEY, 8))
    known_target.locate_points(target, clean, clean[None] + 0.1, clean[None], 0.5, KEY)
    assert len({np.asarray(jax.random.key_data(key)).tobytes() for key in keys}) == len(keys) == 4


@pytest.mark.parametrize("points", [3, 15])
def test_grid_has_its_ends_and_is_dense_at_the_far_one(points):
    grid = denoising.setting_grid(points)
    assert grid[0] == 0
    assert grid[-1] == 1
    assert np.all(np.diff(grid, 2) < 0)
    assert jnp.asarray(grid).shape == (points,)


def test_plug_and_play_settles_where_the_closed_form_says():
    for row in known_target.plug_and_play_law(TARGET, 0.5, jax.random.key(4), points=3, chains=1500):
        assert row.shift_run == pytest.approx(row.shift, rel=1e-4)
        assert row.variance_run == pytest.approx(row.variance, rel=0.1)
        assert row.free_variance_run == pytest.approx(row.free_variance, rel=0.1)
    assert row.free_variance == pytest.approx(1.0, rel=1e-5)
