import os
import pathlib

import jax
import pytest

SHARED = pathlib.Path(os.environ.get("FMDP_SHARED", pathlib.Path(__file__).parents[2] / "shared"))


@pytest.fixture
def x64():
    """Float64 arithmetic for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def reference():
    """The folder of reference arrays; tests that use it skip where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("no reference arrays beside this checkout (FMDP_SHARED names their parent folder)")
    return folder
