import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_python_of_the_readme_runs(block):
    names = {}
    exec(block, names)
    assert names["restored"].shape == names["clean"].shape
    assert abs(names["restored"] - names["clean"]).mean() < abs(names["noisy"] - names["clean"]).mean()


def test_pictures_of_the_readme_exist():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (pathlib.Path(__file__).parents[1] / picture).stat().st_size > 10_000
