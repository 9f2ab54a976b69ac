"""The recipes that docs/training.md compares."""

import runpy

import pytest

from configs import digits
from fmdp.config.validation import validate
from tests.docs.test_doctests import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "training" / "compare_recipes.py"))


@pytest.mark.parametrize("name", SCRIPT["RECIPES"])
def test_a_recipe_is_a_configuration_of_its_own(name):
    config = SCRIPT["configured"](str(ROOT / "configs" / "digits.py"), SCRIPT["RECIPES"][name])
    validate(config)
    assert (config == digits.get_config()) == (name in ("baseline", "MeanFlow"))
