"""python -m fmdp.main --config=configs/<name>.py [--workdir=runs/<name>] [--mode=...], with the modes listed below.

The flags are defined when the command starts, not when this module is imported. From Python, call `fmdp.run`.
"""

import pathlib
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from absl import flags, logging

from fmdp.cli.run import run_config
from fmdp.config.validation import divides_batch, validate, validate_for_devices
from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir
from fmdp.parallel import cluster, mesh
from fmdp.parallel.precision import use_precision

NOTEBOOKS = ("ipykernel_launcher", "colab_kernel_launcher")
"""The programs whose command line is not ours."""


def main(_: list[str]) -> None:
    """Do what the flags ask for."""
    run_flags, restore_command = define_flags()
    mode, distributed = run_flags.MODE.value, run_flags.DISTRIBUTED.value
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries' own messages only on request
    for name in inapplicable_flags(mode):
        raise InputError(f"--{name} does not go with --mode={mode}: leave one of them out")
    if mode in ("restore", "benchmark") and distributed != "none":
        raise InputError(f"--mode={mode} runs in one process: leave --distributed out")
    if mode == "restore":
        use_precision(restore_command.PRECISION.value)
        mesh.divide_cpu()
        mesh.count_devices()  # reports devices that do not start
        restore_command.run_restore()
        return
    config = run_flags.given_config()
    workdir = run_flags.WORKDIR.value or f"runs/{config.name}"
    if mode == "benchmark":
        from fmdp.cli.benchmark import run_benchmark

        validate(config)
        mesh.divide_cpu(config.parallel.cpu_devices)
        mesh.count_devices()
        use_precision(config.precision)
        run_benchmark(config, RunDir.open(workdir), restore_command.CHECKPOINT.value)
        return
    if distributed == "auto":
        cluster.join(run_flags.TIMEOUT.value)
    else:
        validate(config)
        mesh.divide_cpu(config.parallel.cpu_devices, partial(divides_batch, config))
    validate_for_devices(config, mesh.count_devices())
    use_precision(config.precision)
    run_config(config, RunDir.open(workdir), mode, restore_command.CHECKPOINT.value)


def define_flags() -> tuple[ModuleType, ModuleType]:
    """The modules of the flags of a run and of restoring, which define them when they are first imported.

    Raises:
      InputError: another module has defined a flag of the same name.
    """
    try:
        from fmdp.cli import flags as run_flags
        from fmdp.cli import restore as restore_command
    except flags.DuplicateFlagError as error:
        remedy = "call fmdp.run(config, workdir, mode), which has none, or rename yours"
        raise InputError(
            f"flags of this program and of yours clash ({str(error).splitlines()[0]}): {remedy}"
        ) from error
    for module in (run_flags, restore_command):  # so that --help shows their flags
        flags.adopt_module_key_flags(module)
    return run_flags, restore_command


def inapplicable_flags(mode: str) -> list[str]:
    """The flags given on the command line that do not apply to a mode, or to fmdp.bench (mode "bench")."""
    _, restore_command = define_flags()
    restoring = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[restore_command.__name__]]
    excluded = {"restore": ["config", "workdir"], "bench": ["workdir", "mode", "distributed", *restoring]}
    others = [name for name in restoring if name != restore_command.CHECKPOINT.name]
    excluded |= {"benchmark": others, "inverse": others}
    return [name for name in excluded.get(mode, restoring) if flags.FLAGS[name].present]


def cli(arguments: Sequence[str] | None = None) -> None:
    """The command, with the arguments of this process or, as a function, with those given.

    Raises:
      SystemExit: with code 2 after one line on standard error for bad input, with another code for other failures.
    """
    try:
        if arguments is None and pathlib.Path(sys.argv[0]).stem in NOTEBOOKS:
            raise InputError("a notebook has no command line: call fmdp.run(config, workdir, mode), or cli([...])")
        modules = define_flags()
    except InputError as error:
        print(f"fmdp: {error}", file=sys.stderr)
        sys.exit(2)
    from fmdp.cli.errors import run_program

    before = sys.argv
    if arguments is not None:
        sys.argv = ["fmdp.main", *arguments]
        _forget_flags(modules)
    try:
        run_program(main)
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.argv = before


def _forget_flags(modules: tuple[ModuleType, ...]) -> None:
    """Give our flags their defaults again, and remove those of configuration keys, which every parse defines anew."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    for module in modules:
        for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]:
            flag.unparse()


if __name__ == "__main__":
    cli()
