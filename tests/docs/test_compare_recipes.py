"""The recipes that docs/training.md compares."""

import runpy

import pytest

from configs import digits
from fmdp.config.validation import validate
from tests.docs.test_doctests import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "training" / "compare_recipes.py"))


@pytest.mark.parametrize("baseline", ["MeanFlow", "LSD"])
def test_every_recipe_is_a_configuration_of_its_own(baseline):
    recipes = {name: SCRIPT["complete"](name, baseline) for name in SCRIPT["RECIPES"]}
    configs = [SCRIPT["configured"](f"{ROOT / 'configs' / 'photos.py'}:small", recipe) for recipe in recipes.values()]
    for config in configs:
        validate(config)
    assert len({config.to_json() for config in configs}) == len(configs)


def test_a_norm_keeps_the_loss_of_the_baseline():
    baseline = SCRIPT["RECIPES"]["improved + late + share .75"]
    recipe = SCRIPT["complete"]("no norm", "improved + late + share .75")
    assert recipe == {"loss.huber": 0.0, **baseline, "network.norm": "none"}


def test_the_first_baseline_is_the_recipe_of_0_1_0():
    config = SCRIPT["configured"](str(ROOT / "configs" / "digits.py"), SCRIPT["complete"]("MeanFlow", "MeanFlow"))
    default = digits.get_config()
    default.loss.times = "uniform"
    assert config == default
