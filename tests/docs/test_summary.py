import dataclasses
import pathlib
import re

import pytest

from fmdp.evaluation import results, summary

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "summary.md").read_text()
WORDS = set(re.findall(r"[`.\]]([a-z_0-9]+)`", PAGE))
CLASSES = [
    kind for module in (results, summary) for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and kind.__module__.startswith("fmdp.evaluation")
]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(set(CLASSES), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_key_of_a_summary_is_documented(kind):
    keys = {field.name for field in dataclasses.fields(kind)} - {"measures"}
    assert keys <= WORDS, keys - WORDS
    assert f"`schema_version` {summary.SCHEMA_VERSION}" in PAGE
