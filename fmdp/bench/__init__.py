"""What a configuration costs on the device at hand, as ratios measured in one run: `python -m fmdp.bench`."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from fmdp.bench import lowering, programs, speed
from fmdp.bench.workload import Workload, image_shape
from fmdp.errors import InputError

SECTIONS: Mapping[str, Callable[[Workload], dict[str, Any]]] = {
    "ceilings": speed.ceilings,
    "forward": speed.forward,
    "step": speed.step,
    "solve": speed.solve,
    "sweep": speed.sweep,
    "input": speed.input_pipeline,
    "program": lowering.program,
    "compile": programs.compiling,
    "devices": programs.scaling,
    "memory": programs.memory,
}
"""The measurements by the names that --only takes."""


def measure(config: ConfigDict, only: list[str], batch: int, rounds: int, compiles: bool = True) -> dict[str, Any]:
    """Measure the named sections, or all of them if the list is empty.

    Args:
      batch: images at a time; 0 takes config.train.batch_size.
      rounds: number of timings behind each median.
      compiles: whether the section `program` also compiles what it lowers.

    Returns:
      The results by section, as plain JSON.

    Raises:
      InputError: a section is unknown, or the configuration cannot be measured.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise InputError(f"--only={unknown[0]}: must be among {', '.join(SECTIONS)}")
    workload = Workload(config, image_shape(config), batch or config.train.batch_size, rounds, compiles)
    return {name: SECTIONS[name](workload) for name in only or SECTIONS}
