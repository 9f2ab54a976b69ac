"""What a configuration costs on the device at hand, as ratios measured in one run: `python -m fmdp.bench`."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from fmdp.bench import programs, speed
from fmdp.bench.workload import Workload, image_shape
from fmdp.errors import InputError

SECTIONS: Mapping[str, Callable[[Workload], dict[str, Any]]] = {
    "ceilings": speed.ceilings,
    "forward": speed.forward,
    "step": speed.step,
    "solve": speed.solve,
    "sweep": speed.sweep,
    "input": speed.input_pipeline,
    "compile": programs.compiling,
    "devices": programs.scaling,
    "memory": programs.memory,
}
"""What can be measured, by name."""


def measure(config: ConfigDict, only: list[str], batch: int, rounds: int) -> dict[str, Any]:
    """The measurements of the named sections, of all of them where none is named.

    Raises:
      InputError: a section that is not known, or a configuration that cannot be measured.
    """
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise InputError(f"--only={unknown[0]}: must be among {', '.join(SECTIONS)}")
    subject = Workload(config, image_shape(config), batch or config.train.batch_size, rounds)
    return {name: SECTIONS[name](subject) for name in only or SECTIONS}
