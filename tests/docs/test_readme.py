import inspect
import pathlib
import re

import pytest

from fmdp import operators

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCKS = [
    (name, block)
    for name, path in PAGES.items()
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.S)
]


def headings(path):
    """The anchors of a page, as its host makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_python_of_the_pages_runs(name, block):
    names = {}
    exec(block, names)
    assert names["restored"].shape == names["clean"].shape
    assert abs(names["restored"] - names["clean"]).mean() < abs(names["noisy"] - names["clean"]).mean()


def test_the_readme_is_a_front_page():
    text = PAGES["README.md"].read_text()
    assert "README.md" in dict(BLOCKS)
    assert "](docs/knob.gif)" in text
    assert len(text.splitlines()) < 300
    assert all(f"](docs/{name})" in text for name in PAGES if name != "README.md")


@pytest.mark.parametrize("name", PAGES)
def test_pictures_and_links_of_the_pages_lead_somewhere(name):
    text = PAGES[name].read_text()
    for link in re.findall(r"\[.*?\]\((?!https://)(.*?)\)", text):
        target, _, anchor = link.partition("#")
        path = PAGES[name].parent / target
        assert path.exists(), link
        assert not anchor or anchor in headings(path), link
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (PAGES[name].parent / picture).stat().st_size > 10_000


def test_every_operator_is_told_with_its_parameters():
    for name, build in operators.OPERATORS.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*)$", PAGES["library.md"].read_text(), re.M)
        assert all(f"`{parameter}`" in row for parameter in list(inspect.signature(build).parameters)[2:]), name
