"""Memory, open files and threads of a process that trains, saves and measures for a long time."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import digits
from fmdp.training.state import make_field, make_network
from tests.cli.test_main import ROOT
from tests.support import soak

# MB, MB and objects a round; TensorStore alone leaves some 1,500 objects of .1 MB (docs/robustness.md)
MOST = {"memory": 0.3, "allocated": 0.05, "objects": 2000}


def test_the_slope_of_a_line_and_its_error():
    by, error = soak.slope(3.0 + 0.5 * np.arange(200.0) + np.random.default_rng(0).normal(size=200))
    assert abs(by - 0.5) < 4 * error
    assert error == pytest.approx(np.sqrt(12 / 200**3), rel=0.2)


def test_equal_networks_share_what_is_compiled():
    """Or else every measurement in a process would compile, and keep, all its programs anew."""
    fields = [make_field(make_network(digits.get_config("smoke")), {"a": 1.0}) for _ in range(2)]
    assert jax.tree.structure(fields[0]) == jax.tree.structure(fields[1])


def grows(found):
    """What certainly, by three standard errors, grows by more than a round may leave behind."""
    amounts = [name for name, most in MOST.items() if found[name][1] - 3 * found[name][2] > most]
    return amounts + [name for name in soak.COUNTS if found[name][1] > found[name][0] + 4]


def test_growth_is_told_where_it_is_certain():
    flat = dict.fromkeys(MOST, (800.0, 0.0, 1.0)) | {name: [9, 12] for name in soak.COUNTS}
    assert not grows(flat)
    assert not grows(flat | {"memory": (800.0, 3.2, 1.0)})
    assert grows(flat | {"memory": (800.0, 3.2, 0.9), "files": [9, 14]}) == ["memory", "files"]


@pytest.mark.slow
@pytest.mark.long
def test_nothing_grows_in_a_loop_of_training_saving_and_measuring(capsys):
    """FMDP_SOAK_MINUTES=2 makes it short."""
    minutes = os.environ.get("FMDP_SOAK_MINUTES", "20")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.soak", minutes], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert found["rounds"] >= 5
    assert not grows(found)
