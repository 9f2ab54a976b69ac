"""python -m fmdp.main --config=configs/<name>.py [--workdir=runs/<name>] [--mode=...], with the modes listed below."""

from functools import partial

from absl import flags, logging

from fmdp.cli import flags as run_flags
from fmdp.cli import restore as restore_command
from fmdp.cli.benchmark import run_benchmark
from fmdp.cli.errors import run_program
from fmdp.cli.flags import DISTRIBUTED, MODE, TIMEOUT, WORKDIR, given_config
from fmdp.cli.run import run_config
from fmdp.config.validation import divides_batch, validate, validate_for_devices
from fmdp.errors import InputError
from fmdp.io.run_dir import RunDir
from fmdp.parallel import cluster, mesh
from fmdp.parallel.precision import use_precision

for module in (run_flags, restore_command):  # so that --help shows their flags
    flags.adopt_module_key_flags(module)


def main(_: list[str]) -> None:
    """Do what the flags ask for."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries' own messages only on request
    for name in inapplicable_flags(MODE.value):
        raise InputError(f"--{name} does not go with --mode={MODE.value}: leave one of them out")
    if MODE.value in ("restore", "benchmark") and DISTRIBUTED.value != "none":
        raise InputError(f"--mode={MODE.value} runs in one process: leave --distributed out")
    if MODE.value == "restore":
        use_precision(restore_command.PRECISION.value)
        mesh.divide_cpu()
        mesh.count_devices()  # reports devices that do not start
        restore_command.run_restore()
        return
    config = given_config()
    if MODE.value == "benchmark":
        validate(config)
        mesh.divide_cpu(config.parallel.cpu_devices)
        mesh.count_devices()
        use_precision(config.precision)
        run_benchmark(config, _run_dir(config.name), restore_command.CHECKPOINT.value)
        return
    if DISTRIBUTED.value == "auto":
        cluster.join(TIMEOUT.value)
    else:
        validate(config)
        mesh.divide_cpu(config.parallel.cpu_devices, partial(divides_batch, config))
    validate_for_devices(config, mesh.count_devices())
    use_precision(config.precision)
    run_config(config, _run_dir(config.name), MODE.value)


def _run_dir(name: str) -> RunDir:
    return RunDir.open(WORKDIR.value or f"runs/{name}")


def inapplicable_flags(mode: str) -> list[str]:
    """The flags given on the command line that do not apply to a mode, or to fmdp.bench (mode "bench")."""
    restoring = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[restore_command.__name__]]
    excluded = {"restore": ["config", "workdir"], "bench": ["workdir", "mode", "distributed", *restoring]}
    excluded["benchmark"] = [name for name in restoring if name != restore_command.CHECKPOINT.name]
    return [name for name in excluded.get(mode, restoring) if flags.FLAGS[name].present]


if __name__ == "__main__":
    run_program(main)
