"""Running from Python: a function call, flags that only the command defines, and the command as a function."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

import fmdp
from configs import digits
from fmdp.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


def python(program, *arguments):
    """A process of its own, as flags are those of a process: its exit code and its two outputs."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


NOTEBOOK = """
import importlib, io, sys
from absl import flags
flags.DEFINE_string("workdir", "mine", "of the user")
flags.DEFINE_string("config", "mine", "of the user")
import fmdp, fmdp.main
importlib.reload(fmdp.main)
print(fmdp.run.__name__, flags.FLAGS["workdir"].default)
assert "mode" not in flags.FLAGS
sys.stdout.flush()
fmdp.main.cli(["--mode=train"])
"""


@pytest.mark.slow
def test_importing_defines_no_flags_and_a_clash_is_one_line():
    code, out, err = python(NOTEBOOK)
    assert code == 2
    assert out.split() == ["run", "mine"]
    line = err.splitlines()[-1]
    assert line.startswith("fmdp: flags of this program and of yours clash (The flag 'config' is defined twice.")
    assert "call fmdp.run(config, workdir, mode)" in line


COMMAND = """
import importlib, io, sys
import fmdp.main, jax
jax.devices()
class Stream(io.StringIO):  # as in a notebook
    reconfigure = property()
sys.stdout = Stream()
sys.argv = ["/usr/lib/ipykernel_launcher.py", "-f", "kernel.json"]
source, workdir = {source!r}, {workdir!r}
for steps in (1, 2):
    fmdp.main.cli([source, "--workdir=" + workdir, "--mode=train", f"--config.train.steps={{steps}}"])
    importlib.reload(fmdp.main)
from absl import flags
assert sys.argv[-1] == "kernel.json"
print("done", sys.stdout.getvalue().count("results in"), file=sys.stderr)
fmdp.main.cli()
"""


@pytest.mark.slow
def test_the_command_is_a_function_that_can_be_called_again(tmp_path):
    program = COMMAND.format(source="--config=configs/digits.py:smoke", workdir=str(tmp_path / "run"))
    code, _, err = python(program)
    assert code == 2, err[-2000:]
    *_, done, refused = err.splitlines()
    assert done == "done 2"
    assert refused == "fmdp: a notebook has no command line: call fmdp.run(config, workdir, mode), or cli([...])"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["train"]["steps"] == 2


@pytest.mark.slow
def test_a_run_is_a_function_call(tmp_path):
    config = digits.get_config("smoke")
    config.train.steps, config.network = 2, {"name": "mlp", "width": 8, "blocks": 1}
    before = config.to_json_best_effort()
    summary = fmdp.run(config, tmp_path / "run", "train")
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["train"]["steps"] == 2
    assert config.to_json_best_effort() == before
    assert fmdp.load(tmp_path / "run").image_shape == (8, 8, 1)
    config.train.steps = 0
    with pytest.raises(InputError, match=r"config.train.steps = 0"):
        fmdp.run(config, tmp_path / "other", "train")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("trane", "fmdp.run: unknown mode 'trane', did you mean 'train'"),
        ("benchmark", r"fmdp.run\(mode='benchmark'\): call fmdp.main.cli\(\['--mode=benchmark', "),
        ("restore", r"fmdp.run\(mode='restore'\): call fmdp.restore\(fmdp.load\(checkpoint\), image, request\)"),
    ],
)
def test_modes_that_a_run_does_not_have_are_one_line(mode, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        fmdp.run(ConfigDict(), tmp_path / "run", mode)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
