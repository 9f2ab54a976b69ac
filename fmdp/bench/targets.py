"""Machines that are not at hand, and their devices as far as programs can be compiled for them.

The compiler of TPUs is a package, libtpu, that runs on any machine and compiles for a topology. There is no such
compiler for GPUs.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import jax
from jax.experimental import topologies

from fmdp.errors import InputError, translating


class Chip(NamedTuple):
    """A generation of TPUs.

    Attributes:
      hbm: bytes of memory that programs may use on a chip; libtpu 0.0.42.1 states them where a program needs more.
      accelerator: the prefix of the names that Google Cloud gives to its slices, and what a chip counts in them.
      example: the smallest topology.
      most: chips of a slice.
      options: that make a chip one device, as it is by default on a real slice.
    """

    hbm: float
    accelerator: tuple[str, int]
    example: str
    most: int
    options: Mapping[str, str] = {}


CHIPS = {
    "v4": Chip(30.75 * 2**30, ("v4", 2), "2x2x1", 4096, {"chip_config_name": "megacore"}),
    "v5e": Chip(15.75 * 2**30, ("v5litepod", 1), "2x2", 256),
    "v5p": Chip(95.74 * 2**30, ("v5p", 2), "2x2x1", 8960),
    "v6e": Chip(31.25 * 2**30, ("v6e", 1), "2x2", 256),
}


@dataclass(frozen=True)
class Tpu:
    """A slice of TPUs, such as tpu:v5e:2x2."""

    name: str
    generation: str
    topology: str

    @property
    def chip(self) -> Chip:
        """What it consists of."""
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """Their number."""
        return math.prod(int(side) for side in self.topology.split("x"))


@dataclass(frozen=True)
class Gpu:
    """One GPU with so many gigabytes of memory, such as gpu:24."""

    name: str
    gigabytes: int


def parse(name: str) -> Tpu | Gpu:
    """The machine of this name.

    Raises:
      InputError: the name is of another form, or there is no such slice.
    """
    if found := re.fullmatch(r"gpu:([1-9]\d{0,3})", name):
        return Gpu(name, int(found[1]))
    if found := re.fullmatch(rf"tpu:({'|'.join(CHIPS)}):([1-9]\d{{0,4}}(?:x[1-9]\d{{0,4}}){{1,2}})", name):
        target = Tpu(name, found[1], found[2])
        sides = target.chip.example.count("x") + 1
        if target.topology.count("x") + 1 != sides or target.chips > target.chip.most:
            allowed = f"a slice of {target.generation} has {sides} sides and at most {target.chip.most} chips"
            raise InputError(f"--target={name}: {allowed}, such as tpu:{target.generation}:{target.chip.example}")
        return target
    raise InputError(
        f"--target={name}: write tpu:GENERATION:TOPOLOGY, such as tpu:v5e:2x2, where the generation is"
        f" {', '.join(CHIPS)}; or gpu:GB, such as gpu:24"
    )


def prepare(targets: Sequence[Tpu | Gpu]) -> None:
    """Set JAX up, before it starts, to compile for these machines."""
    tpus = [isinstance(target, Tpu) for target in targets]
    if any(tpus):
        jax.config.update("jax_enable_compilation_cache", False)  # it cannot read back what was compiled ahead of time
    if all(tpus) and "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")  # so that JAX looks for no TPU here


def devices_of(target: Tpu) -> list[jax.Device]:
    """The chips of a slice as devices that programs can be compiled for.

    Raises:
      InputError: libtpu is not installed, or does not know the topology.
    """
    if find_spec("libtpu") is None:
        raise InputError(
            f"--target={target.name} needs the compiler of TPUs, libtpu: pip install -c constraints.txt '.[tpu]'"
        )
    prefix, each = target.chip.accelerator
    environment = {
        "TPU_SKIP_MDS_QUERY": "1",  # this machine is not in a cloud
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nor does it hold a TPU that only one process can use
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{prefix}-{target.chips * each}",
    }
    for key, value in environment.items():
        os.environ.setdefault(key, value)
    remedy = f"name a topology of {target.generation}, such as tpu:{target.generation}:{target.chip.example}"
    with translating(lambda why: f"--target={target.name}: libtpu refuses it ({why}): {remedy}", RuntimeError):
        name = f"{target.generation}:{target.topology}"
        return topologies.get_topology_desc(name, "tpu", **target.chip.options).devices
