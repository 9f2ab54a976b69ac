import sys

import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict

from fmdp import main
from fmdp.cli import flags as command_line
from fmdp.errors import InputError

CONFIG = ConfigDict({"train": {"steps": 3, "log_every": 1}, "tasks": [{"sigma": 0.1}], "name": "a"})


@pytest.mark.parametrize("key", ["train.steps", "train", "train['steps']", "tasks[0].sigma", "name"])
def test_keys_of_the_configuration_are_accepted(key):
    command_line.check_key(CONFIG, key)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.step", "--config.train.step: unknown key 'step', did you mean 'steps'?"),
        ("trian.steps", "unknown key 'trian', did you mean 'train'?"),
        ("what", "unknown key 'what'; known: name, tasks, train"),
        ("train.__class__", "unknown key '__class__'; known: log_every, steps"),
        ("train.steps.x", "unknown key 'x'; known: none"),
        ("tasks[1].sigma", "unknown key 1; known: none"),
        ("train.1", "write a key with dots, such as --config.train.steps"),
        ("", "write a key with dots"),
        ("f(x)", "write a key with dots"),
    ],
)
def test_other_keys_are_refused_by_name(key, message):
    with pytest.raises(InputError) as refused:
        command_line.check_key(CONFIG, key)
    assert message in str(refused.value)
    assert f"--config.{key}: " in str(refused.value)


def test_every_option_of_the_network_can_be_overridden():
    config = ConfigDict({"network": {"name": "mlp", "width": 8}, "train": {"steps": 1}})
    for key in ("network.dropout", "network.width", "network.width[0]", "train.dropout"):
        command_line.add_network_option(config, key)
    assert config.to_dict() == {"network": {"name": "mlp", "width": 8, "dropout": 0.0}, "train": {"steps": 1}}
    with pytest.raises(InputError, match=r"--config.network.dropuot: unknown key 'dropuot', did you mean 'dropout'"):
        command_line.add_network_option(config, "network.dropuot")
    unknown = ConfigDict({"network": {"name": "own"}})
    command_line.add_network_option(unknown, "network.dropout")
    assert unknown.to_dict() == {"network": {"name": "own"}}


def test_overrides_are_found_in_every_spelling():
    argv = [
        "main",
        "--config=a.py",
        "--config.a.b=3",
        "-config.c",
        "4",
        "--noconfig.d",
        "--configs.e=1",
        "x--config.f=1",
    ]
    assert list(command_line.overridden_keys(argv)) == ["a.b", "c", "d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nonsense_", "cannot be used, ModuleNotFoundError: No module named 'nonsense_'"),
        ("x = 3", "has no attribute 'get_config'"),
        ("def get_config(): raise RuntimeError('a\\nb')", "cannot be used, RuntimeError: a b"),
        ("get_config = lambda: {}['gone']", "cannot be used, KeyError: 'gone'"),
        ("get_config = lambda: 3", "get_config() returned int: begin with fmdp.config.defaults.default_config()"),
        ("from fmdp.errors import InputError\ndef get_config(): raise InputError('as it is')", "as it is"),
    ],
)
def test_a_file_that_gives_no_configuration_is_refused(text, message, tmp_path):
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(InputError) as refused:
        command_line.load_config(str(tmp_path / "config.py"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "absent.py", ".", "a\0b"])
def test_what_is_not_a_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--config names a file, such as configs/digits\.py"):
        command_line.load_config(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["photo.jpg"],
            "'photo.jpg' belongs to no flag: write --NAME=VALUE, such as --mode=restore --checkpoint=photos "
            "--input=photo.jpg",
        ),
        (["configs/digits.py"], "belongs to no flag: write --NAME=VALUE, such as --config=configs/digits.py"),
        (
            ["--mode=restore", "--checkpoint=photos", "--input", "a.jpg", "b.jpg", "c.jpg", "--sweep"],
            "'b.jpg' and 1 more belong to no flag: --input takes one picture or one folder, so put several pictures",
        ),
    ],
)
def test_arguments_that_belong_to_no_flag_are_one_line(arguments, message, capsys):
    main.define_flags()  # before the flags are saved
    with flagsaver.flagsaver():
        with pytest.raises(SystemExit) as ended:
            main.cli(arguments)
        assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_file_with_an_old_key_gives_a_locked_configuration_with_the_new_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.py").write_text(
        "from fmdp.config.defaults import default_config\n"
        "def get_config(variant):\n"
        "    config = default_config()\n"
        "    config.train.keep = int(variant)\n"
        "    return config\n"
    )
    monkeypatch.setattr(sys, "argv", ["main"])
    config = command_line.ConfigParser().parse(f"{tmp_path / 'config.py'}:7")
    assert config.train.max_to_keep == 7
    assert "keep" not in config.train
    assert config.is_locked
    assert capsys.readouterr().err.endswith("use config.train.max_to_keep\n")
