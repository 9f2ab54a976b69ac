import pathlib

import pytest

from configs import digits
from fmdp.config import presets
from fmdp.config.defaults import as_plain_dict
from fmdp.config.validation import validate_for_devices
from fmdp.errors import InputError

CONFIGS = sorted(path for path in (pathlib.Path(__file__).parents[2] / "configs").glob("[!_]*.py"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", 0),
        ("train.batch_size", 30),
        ("train.log_every", -1),
        ("train.max_consecutive_skips", 0),
        ("train.keep_period", -1),
        ("train.keep_period", 1500),
        ("loss.off_diagonal", "none"),
        ("loss.diagonal_share", 0.0),
        ("loss.weighting", "some"),
        ("loss.times", "early"),
        ("loss.times_std", 0.0),
        ("loss.power", -1.0),
        ("loss.phases", ((0.5, 1.0), (0.4, 0.5))),
        ("loss.phases", ((0.5, 1.0), (0.5, 0.0))),
        ("loss.phases", ((1.5, 1.0), (-0.5, 0.5))),
        ("loss.phases", (0.5, 0.5)),
        ("loss.phases", ((0.5, "a"), (0.5, 0.5))),
        ("loss.phases", ((0.5, 1.0), (0.5, 0.999))),
        ("loss.teacher_decay", 1.0),
        ("loss.teacher_decay", -0.1),
        ("loss.interval_steps", -1),
        ("loss.difference", 1.5),
        ("loss.huber", -0.1),
        ("optimizer.learning_rate", 0.0),
        ("ema.half_life", 0.0),
        ("precision", "high"),
        ("parallel.mode", "xmap"),
        ("data.test_share", 1.0),
        ("evaluate.noise_levels", ()),
        ("evaluate.noise_levels", (0.5, 1.0)),
        ("evaluate.points", 2),
        ("evaluate.noise_draws", 0),
        ("inverse.protocol", "fmb"),
        ("inverse.solvers", ("pnp", "dsp")),
        ("inverse.knob", "chord"),
        ("inverse.seeds", 0),
        ("inverse.steps", ()),
        ("inverse.steps", (0, 10)),
        ("inverse.lookaheads", (0.5, 1.5)),
        ("seed", -1),
        ("seed", 2**63),
        ("name", "../elsewhere"),
        ("optimizer.learning_rate", float("inf")),
        ("optimizer.b1", 1.0),
        ("optimizer.clip_norm", 0.0),
        ("loss.weight_bound", 0.0),
        ("data.samples", 0),
        ("train.steps", 2**31),
        ("evaluate.noise_levels", ("a",)),
    ],
)
def test_what_cannot_run_is_refused_by_name_and_value(key, value):
    c = digits.get_config()
    validate_for_devices(c, 4)
    c.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as refused:
        validate_for_devices(c, 4)
    assert f"config.{key} = {value!r}" in str(refused.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_its_command_time_and_scores(path):
    text = path.read_text()
    assert f"python -m fmdp.main --config=configs/{path.name}" in text
    assert "Expected time" in text
    assert "Expected scores" in text


def test_large_pictures_are_restored_in_batches_no_larger_than_those_of_the_evaluation():
    config = presets.paper(256)
    assert config.inverse.batch_size == config.evaluate.batch_size == 50


def test_plain_config_is_json():
    import json

    assert json.loads(json.dumps(as_plain_dict(digits.get_config())))["evaluate"]["noise_levels"] == [0.3, 0.5, 0.7]
