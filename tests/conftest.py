import os
import pathlib
import subprocess

import jax
import pytest
from hypothesis import HealthCheck, settings

# Tests and the processes that they start share what one of them has compiled.
CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
for name, value in CACHE.items():
    os.environ.setdefault(name, value)
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
)

# `make test` draws the same cases on every machine; `make test-long` explores, and prints the seed of what it finds.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("fixed"), derandomize=False, database=None, print_blob=True)
settings.load_profile("fixed")

SHARED = pathlib.Path(os.environ.get("FMDP_SHARED", pathlib.Path(__file__).parents[2] / "shared"))


@pytest.fixture
def x64():
    """Float64 arithmetic for the length of one test, which skips where there is none."""
    if jax.default_backend() == "tpu":
        pytest.skip("TPUs have no float64")
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def cheap_compilation():
    """For modules whose time is nearly all XLA's optimisation of programs that run once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def reference():
    """The folder of reference arrays; tests that use it skip where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("no reference arrays beside this checkout (FMDP_SHARED names their parent folder)")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "fmdp", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
