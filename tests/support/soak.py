"""python -m tests.support.soak MINUTES [--spare]: training, saving and measuring in a loop, and its memory.

With --spare orbax does without the two calls whose results TensorStore does not free.
"""

import contextlib
import ctypes
import gc
import io
import json
import os
import pathlib
import sys
import tempfile
import time
import types

import numpy as np
import tensorstore
from orbax.checkpoint._src.serialization import tensorstore_utils

from configs import digits
from fmdp.cli.run import run_config
from fmdp.io.run_dir import RunDir

STEPS = 20  # a round
AMOUNTS = ("memory", "allocated", "objects")  # reported as mean, slope a round and its standard error
COUNTS = ("files", "threads")  # reported as the first and the most


def config_of_round(k: int):
    """The digits for a few more steps than the round before, with a checkpoint every other few, measured briefly."""
    c = digits.get_config("smoke")
    c.train.update(steps=STEPS * (k + 1), checkpoint_every=STEPS // 2, log_every=2)
    c.evaluate.update(noise_levels=(0.5,), points=3, noise_draws=1, baseline_images=30, baseline_steps=2, bootstrap=5)
    return c


class _Changed:
    """Something with a few of its attributes replaced."""

    def __init__(self, what, **changes):
        self._what = what
        self.__dict__.update(changes)

    def __getattr__(self, name):
        return getattr(self._what, name)


def spare() -> None:
    """Keep orbax from describing folders in JSON and from counting bytes, both of which leave objects behind."""
    as_named = _Changed(tensorstore.KvStore, Spec=lambda spec: types.SimpleNamespace(to_json=lambda: spec))
    tensorstore_utils.ts = _Changed(tensorstore, KvStore=as_named)
    tensorstore_utils.get_tensorstore_raw_bytes = lambda direction: 0


class _Mallinfo2(ctypes.Structure):
    """What malloc has, as glibc's malloc.h declares it; the names of what is used here are its own."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "hblkhd", "e", "f", "uordblks", "g", "h"))


def held() -> dict[str, float]:
    """What this process holds on to, once everything free is given back to the system (with glibc).

    Returns:
      memory: resident, MB; allocated: of that what malloc has lent and not got back, MB; objects: Python's own blocks;
      files and threads: how many.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    libc.mallinfo2.restype = _Mallinfo2
    lent = libc.mallinfo2()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    count = {name: len(os.listdir(f"/proc/self/{folder}")) for name, folder in (("files", "fd"), ("threads", "task"))}  # noqa: PTH208
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "allocated": (lent.uordblks + lent.hblkhd) / 1e6,
        "objects": sys.getallocatedblocks(),
        **count,
    }


def slope(values: np.ndarray) -> tuple[float, float]:
    """The slope of a straight line through equally spaced values by least squares, and its standard error."""
    centred = np.arange(len(values)) - (len(values) - 1) / 2
    by = (centred @ values) / (centred @ centred)
    residual = values - values.mean() - by * centred
    return float(by), float(np.sqrt(residual @ residual / (len(values) - 2) / (centred @ centred)))


def soak(minutes: float) -> dict:
    """Go round for so many minutes; what is reported is of the second half, when every cache is filled."""
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        while not rows or rows[-1]["minutes"] < minutes:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run_config(config_of_round(len(rows)), RunDir(pathlib.Path(folder)), "train_and_evaluate")
            rows.append({"minutes": (time.monotonic() - began) / 60} | held())
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    late = [row for row in rows if row["minutes"] > minutes / 2]
    column = {name: np.array([row[name] for row in late]) for name in rows[0]}
    return {
        "rounds": len(rows),
        "steps": STEPS * len(rows),
        "minutes": rows[-1]["minutes"],
        **{name: (column[name].mean(), *slope(column[name])) for name in AMOUNTS},
        **{name: [int(column[name][0]), int(column[name].max())] for name in COUNTS},
    }


if __name__ == "__main__":
    if "--spare" in sys.argv[2:]:
        spare()
    print(json.dumps(soak(float(sys.argv[1]))))
