"""The flags of a run, and one line for what is wrong with a command line; those of restoring are in `restore`."""

import difflib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from fmdp.cli.analyses import ANALYSES
from fmdp.cli.deprecated import rename_flags, warn_renamed
from fmdp.config.renamed import RENAMED, rename_keys
from fmdp.errors import InputError

CONFIG = config_flags.DEFINE_config_file("config", help_string="The configuration of the run, a file in configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; runs/<config name> unless given.")
MODE = flags.DEFINE_enum("mode", "train_and_evaluate", [*ANALYSES, "restore"], "What to do.")
DISTRIBUTED = flags.DEFINE_enum("distributed", "none", ["none", "auto"], "Join other processes: auto finds them.")
TIMEOUT = flags.DEFINE_integer("distributed_timeout", 300, "Seconds to wait for all processes.", 1, 86_400)


class ConfigParser(flags.ArgumentParser):
    """Loads the file that --config names, and checks the keys that --config.KEY=VALUE overrides.

    It takes the place of the parser of ml_collections, whose errors would have to be taken apart to be understood.
    """

    def parse(self, argument: str) -> ConfigDict:
        """The locked configuration; argument is FILE or FILE:VARIANT.

        Raises:
          InputError: there is no such file or key, or the file gives no configuration.
        """
        config = load_config(argument)
        for old in rename_keys(config):
            warn_renamed(f"config.{old}", f"config.{RENAMED[old]}")
        for key in overridden_keys(flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)):
            check_key(config, key)
        return config.lock()

    def flag_type(self) -> str:
        """The type of the flag, for --help."""
        return "config object"


flags.FLAGS["config"].parser = ConfigParser()


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line, and return the arguments that are not flags.

    Raises:
      InputError: a flag or the configuration cannot be used.
    """
    sys.argv = rename_flags(argv)  # ml_collections looks for overridden keys there
    try:
        return flags.FLAGS(sys.argv)
    except Exception as error:  # ml_collections raises many kinds for values that do not fit
        cause = _find_input_error(error)
        said = " ".join(str(cause or error).split())
        if cause is None and not isinstance(error, flags.Error | ValueError | TypeError):
            said = f"--config cannot be used, {type(error).__name__}: {said}"
        raise InputError(said) from error


def _find_input_error(error: BaseException | None) -> InputError | None:
    """The InputError that absl has wrapped into one of its own, if any."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def load_config(argument: str) -> ConfigDict:
    """What get_config() returns in the file of FILE or FILE:VARIANT.

    Raises:
      InputError: the file cannot be read, fails, or returns something else.
    """
    path, *variant = argument.split(":", 1)
    loader = importlib.machinery.SourceFileLoader("fmdp_config", path)
    try:
        loader.get_data(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{error}: --config names a file, such as configs/digits.py") from error
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        config = module.get_config(*variant)
    except InputError:
        raise
    except Exception as error:  # a configuration is a program, and may raise anything
        said = " ".join(str(error).split())
        raise InputError(f"--config={argument} cannot be used, {type(error).__name__}: {said}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={argument}: get_config() returned {type(config).__name__}:"
            " begin with fmdp.config.defaults.default_config()"
        )
    return config


def overridden_keys(argv: list[str]) -> Iterator[str]:
    """The KEY of every --config.KEY and --noconfig.KEY."""
    for argument in argv:
        if found := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            yield found[1]


def check_key(config: ConfigDict, key: str) -> None:
    """Refuse a key, such as train.steps, that the configuration does not have.

    Raises:
      InputError: names the key, and a similar one where there is one.
    """
    try:
        names = config_path.split(key)
    except Exception as error:  # it parses the key as Python
        raise InputError(f"--config.{key}: write a key with dots, such as --config.train.steps") from error
    part: Any = config
    for name in names:
        if isinstance(part, list) and isinstance(name, int) and -len(part) <= name < len(part):
            part = part[name]
            continue
        if not isinstance(part, ConfigDict | dict):
            kind = type(part).__name__
            raise InputError(f"--config.{key}: the configuration has no key {name}: what precedes it is of type {kind}")
        if name not in part:
            similar = difflib.get_close_matches(str(name), list(part), 1)
            advice = f"Did you mean {similar[0]} instead of {name}?" if similar else f"It has {', '.join(part)}"
            raise InputError(f"--config.{key}: the configuration has no key {name}. {advice}")
        part = part[name]
