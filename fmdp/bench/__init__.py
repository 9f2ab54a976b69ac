"""What a configuration costs on the device at hand, as ratios measured in one run: `python -m fmdp.bench`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from fmdp.bench import lowering, profiling, programs, speed
from fmdp.bench.workload import Workload, image_form
from fmdp.errors import require_known

SECTIONS: Mapping[str, Callable[[Workload], dict[str, Any]]] = {
    "ceilings": speed.ceilings,
    "forward": speed.forward,
    "step": speed.step,
    "solve": speed.solve,
    "sweep": speed.sweep,
    "input": speed.input_pipeline,
    "profile": profiling.profile,
    "program": lowering.program,
    "compile": programs.compiling,
    "devices": programs.scaling,
    "memory": programs.memory,
}
"""The measurements by the names that --only takes."""


def choose(only: Sequence[str]) -> list[str]:
    """The named sections, each once, or all of them if none is named.

    Raises:
      InputError: a section is unknown.
    """
    for name in only:
        require_known("--only: unknown section", name, SECTIONS)
    return list(dict.fromkeys(only or SECTIONS))


def measure(
    config: ConfigDict, only: Sequence[str], batch: int, rounds: int, compiles: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the sections that `choose` finds, one after another.

    Args:
      batch: images at a time; 0 takes config.train.batch_size.
      rounds: number of timings behind each median.
      compiles: whether the section `program` also compiles what it lowers.

    Yields:
      Each section with its results, as plain JSON, once it is measured.

    Raises:
      InputError: a section is unknown, or the configuration cannot be measured.
    """
    names = choose(only)
    shape, dtype = image_form(config)
    workload = Workload(config, shape, batch or config.train.batch_size, rounds, compiles, dtype)
    for name in names:
        yield name, SECTIONS[name](workload)
