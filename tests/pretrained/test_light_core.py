"""Loading a prior needs JAX, Flax and safetensors, and nothing of what training, data and figures need."""

import json
import subprocess
import sys
import time

import pytest

HEAVY = {"grain", "orbax", "clu", "sklearn", "skimage", "matplotlib", "PIL"}
HEAVY |= {"tensorboardX", "tensorflow_datasets", "tensorflow"}
LOAD = "import fmdp; fmdp.load('fashion_mnist')"


def imported_by(program):
    listing = "; import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program + listing], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_loading_a_prior_imports_nothing_heavy():
    assert not HEAVY & imported_by(LOAD)


def test_the_defaults_of_a_configuration_import_ml_collections_and_little_else():
    found = imported_by("import fmdp.config.defaults")
    assert "ml_collections" in found
    assert not {*HEAVY, "jax", "flax", "optax", "scipy"} & found


@pytest.mark.slow
def test_loading_a_prior_takes_little_longer_than_its_libraries():
    def seconds(program):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.monotonic() - began

    ratios = [seconds(LOAD) / seconds("import jax, flax.linen, safetensors") for _ in range(5)]
    assert sorted(ratios)[2] < 1.5, ratios
