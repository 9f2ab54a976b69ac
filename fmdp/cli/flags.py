"""The flags of a run, and one line for what is wrong with a command line; those of restoring are in `restore`."""

import importlib.machinery
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from fmdp.cli.analyses import ANALYSES
from fmdp.cli.deprecated import rename_flags, warn_renamed
from fmdp.config.renamed import RENAMED, rename_keys
from fmdp.errors import InputError, require_known, translating
from fmdp.networks import BACKBONES, backbone_options

CONFIG = config_flags.DEFINE_config_file("config", help_string="The configuration of the run, a file in configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; runs/<config name> unless given.")
MODE = flags.DEFINE_enum("mode", "train_and_evaluate", [*ANALYSES, "restore", "benchmark"], "What to do.")
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
            add_network_option(config, key)
            check_key(config, key)
        return config.lock()

    def flag_type(self) -> str:
        """The type of the flag, for --help."""
        return "config object"


flags.FLAGS["config"].parser = ConfigParser()


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the command line, and return the name of the program, since all its arguments are flags.

    Raises:
      InputError: a flag or the configuration cannot be used, or an argument belongs to no flag.
    """
    sys.argv = rename_flags(argv)  # ml_collections looks for overridden keys there
    try:
        program, *left = flags.FLAGS(sys.argv)
    except Exception as error:  # ml_collections raises many kinds for values that do not fit
        plain = isinstance(error, flags.Error | ValueError | TypeError)
        raise _as_input_error(error, "" if plain else "--config cannot be used") from error
    if left:
        more = f" and {len(left) - 1} more belong" if len(left) > 1 else " belongs"
        raise InputError(f"{left[0][:100]!r}{more} to no flag: {_flag_for(left[0][:100])}")
    return [program]


def _flag_for(argument: str) -> str:
    """How an argument without a flag was probably meant."""
    if "input" in flags.FLAGS and flags.FLAGS["input"].present:
        return "--input takes one picture or one folder, so put several pictures into a folder"
    likely = "--config=" if argument.endswith(".py") else "--mode=restore --checkpoint=photos --input="
    return f"write --NAME=VALUE, such as {likely}{argument}"


def given_config() -> ConfigDict:
    """The configuration that --config names; InputError without one."""
    if CONFIG.value is None:
        raise InputError("--config is missing: name a file in configs/, such as --config=configs/digits.py")
    return CONFIG.value


def _as_input_error(error: Exception, subject: str) -> InputError:
    """One line for an error: what an InputError among its causes says, or the subject, its type and its message."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__  # absl wraps errors of parsers into its own
    said = " ".join(str(cause or error).split())
    return InputError(f"{subject}, {type(error).__name__}: {said}" if subject and cause is None else said)


def load_config(argument: str) -> ConfigDict:
    """What get_config() returns in the file of FILE or FILE:VARIANT.

    Raises:
      InputError: the file cannot be read, fails, or returns something else.
    """
    path, *variant = argument.split(":", 1)
    loader = importlib.machinery.SourceFileLoader("fmdp_config", path)
    remedy = "--config names a file, such as configs/digits.py"
    with translating(lambda why: f"--config={argument} cannot be read ({why}): {remedy}", OSError, ValueError):
        loader.get_data(path)
    module = types.ModuleType(loader.name)
    module.__file__ = path
    try:
        loader.exec_module(module)
        config = module.get_config(*variant)
    except Exception as error:  # a configuration is a program, and may raise anything
        raise _as_input_error(error, f"--config={argument} cannot be used") from error
    if not isinstance(config, ConfigDict):
        returned = f"get_config() returned {type(config).__name__}"
        raise InputError(f"--config={argument}: {returned}: begin with fmdp.config.defaults.default_config()")
    return config


def overridden_keys(argv: list[str]) -> Iterator[str]:
    """The KEY of every --config.KEY and --noconfig.KEY."""
    for argument in argv:
        if found := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            yield found[1]


def add_network_option(config: ConfigDict, key: str) -> None:
    """Let the key network.OPTION be overridden: an option that the file leaves out is added with its default.

    Raises:
      InputError: the network has no such option.
    """
    section, _, option = key.partition(".")
    backbone = BACKBONES.get(config.get("network", {}).get("name"))
    if section == "network" and backbone is not None and option.isidentifier():
        options = backbone_options(backbone())
        require_known(f"--config.{key}: unknown key", option, options)
        config.network.update({option: config.network.get(option, options[option])})


def check_key(config: ConfigDict, key: str) -> None:
    """Refuse a key, such as train.steps, that the configuration does not have.

    Raises:
      InputError: names the key, and a similar one where there is one.
    """
    remedy = "write a key with dots, such as --config.train.steps"
    with translating(lambda _: f"--config.{key}: {remedy}", Exception):  # ml_collections parses the key as Python
        names = config_path.split(key)
    part: Any = config
    for name in names:
        if isinstance(part, list) and isinstance(name, int) and -len(part) <= name < len(part):
            part = part[name]
            continue
        require_known(f"--config.{key}: unknown key", name, part if isinstance(part, ConfigDict | dict) else ())
        part = part[name]
