"""Memory, open files and threads of a process that trains, saves and measures for a long time."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import digits
from fmdp import train
from tests import soak
from tests.test_main import ROOT


def test_the_slope_of_a_line_and_its_error():
    minutes = np.arange(200.0)
    by, error = soak.slope(minutes, 3.0 + 0.5 * minutes + np.random.default_rng(0).normal(size=200))
    assert abs(by - 0.5) < 4 * error
    assert error == pytest.approx(np.sqrt(12 / 200**3), rel=0.2)


def test_equal_networks_share_what_is_compiled():
    """Or else every measurement in a process would compile, and keep, all its programs anew."""
    fields = [train.make_field(train.make_network(digits.get_config("smoke")), {"a": 1.0}) for _ in range(2)]
    assert jax.tree.structure(fields[0]) == jax.tree.structure(fields[1])


def grows(found, share=0.002):
    """Whether memory grows by more than this share of it a minute, beyond what chance does, or anything else does."""
    certain = found["memory_per_minute"] - 3 * found["standard_error"]
    more = [name for name in ("files", "threads") if found[name][1] > found[name][0] + 4]
    return [*more, *["memory"] * (certain > share * found["memory"])]


@pytest.mark.slow
@pytest.mark.long
def test_nothing_grows_in_a_loop_of_training_saving_and_measuring(capsys):
    """FMDP_SOAK_MINUTES=2 makes it short."""
    minutes = os.environ.get("FMDP_SOAK_MINUTES", "20")
    done = subprocess.run([sys.executable, "-m", "tests.soak", minutes], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert found["rounds"] >= 5
    assert not grows(found)
