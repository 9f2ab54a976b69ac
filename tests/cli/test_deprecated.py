"""Names of version 0.1.0: they work, and one line says which name to use."""

import subprocess
import sys

import ml_collections
import pytest

from fmdp.cli.deprecated import FLAGS, rename_flags
from fmdp.config.defaults import as_plain_dict, default_config
from fmdp.config.renamed import RENAMED, rename_keys


def test_old_flags_are_replaced_and_reported(capsys):
    given = [
        "main",
        "--parameter=size=4",
        "-draws",
        "3",
        "--config.train.keep=5",
        "--config.train.keep_every=2",
        "x=--draws",
    ]
    wanted = ["main", "--operator_arg=size=4", "-num_samples", "3", "--config.train.max_to_keep=5"]
    assert rename_flags(given) == [*wanted, "--config.train.keep_period=2", "x=--draws"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0] == "fmdp: --parameter is deprecated and will be removed in the next version: use --operator_arg"


@pytest.mark.slow
def test_an_old_key_on_the_command_line_reaches_the_configuration(tmp_path):
    command = [sys.executable, "-m", "fmdp.main", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    done = subprocess.run([*command, "--config.train.keep=0"], capture_output=True, text=True)
    assert done.returncode == 2
    deprecated, refused = done.stderr.splitlines()
    assert deprecated.endswith("use --config.train.max_to_keep")
    assert "config.train.max_to_keep = 0: must be 1 or more" in refused


def test_every_new_key_exists_and_no_old_one_does():
    config = default_config()
    for old, new in RENAMED.items():
        section, key = new.split(".")
        assert key in config[section]
        assert old.split(".")[1] not in config[old.split(".")[0]]
    assert {f"config.{old}" for old in RENAMED} < set(FLAGS)


@pytest.mark.parametrize("plain", [False, True])
def test_old_keys_of_a_configuration_are_moved(plain):
    config = default_config()
    config.train.keep = 7
    config.evaluate.update(draws=3, rival_images=0)
    config = as_plain_dict(config) if plain else config
    assert rename_keys(config) == ["train.keep", "evaluate.draws", "evaluate.rival_images"]
    config = config if isinstance(config, ml_collections.ConfigDict) else ml_collections.ConfigDict(config)
    assert (config.train.max_to_keep, config.evaluate.noise_draws, config.evaluate.baseline_images) == (7, 3, 0)
    assert as_plain_dict(config).keys() == as_plain_dict(default_config()).keys()
    assert config.train.keys() == default_config().train.keys()
