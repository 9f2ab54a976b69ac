"""The examples in docstrings, run; what doctest prints of one that fails is the message of the test."""

import doctest
import importlib
import pathlib
import sys

import pytest

import fmdp

ROOT = pathlib.Path(fmdp.__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.glob("fmdp/**/*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, capsys):
    failed, attempted = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert attempted
    assert not failed, capsys.readouterr().out


@pytest.mark.parametrize("name", fmdp.__all__)
def test_every_public_name_has_an_example(name):
    public = getattr(fmdp, name)
    assert ">>> " in public.__doc__
    home = public.__name__ if isinstance(public, type(sys)) else public.__module__
    assert home in MODULES
