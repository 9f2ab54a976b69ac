"""Loading and restoring where the modules and constants that only POSIX systems have are missing."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fmdp import Request, load, restore

ROOT = pathlib.Path(__file__).parents[2]

WITHOUT_POSIX = """
import builtins, errno, os, pathlib, signal, sys
import grain, jax, matplotlib, multiprocessing.resource_tracker, orbax.checkpoint  # are their makers' affair

POSIX = ("fcntl", "resource", "termios", "pwd", "grp", "posix", "pty", "tty", "syslog", "readline")
real = builtins.__import__
def imported(name, globals=None, *rest):
    if name.partition(".")[0] in POSIX and (globals or {}).get("__name__", "").startswith("fmdp"):
        raise ImportError(f"No module named {name!r}")
    return real(name, globals, *rest)
builtins.__import__ = imported
for module, names in {
    os: ("O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "sched_getaffinity", "fork", "getuid", "statvfs", "killpg"),
    signal: ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "SIGCHLD", "SIGPIPE", "pthread_sigmask", "setitimer"),
    errno: ("EDQUOT", "ENOTSUP"),
}.items():
    for name in names:
        delattr(module, name)

import numpy as np
import fmdp
folder = pathlib.Path(sys.argv[1])
image = np.load(folder / "image.npy")
restored = fmdp.restore(fmdp.load("fashion_mnist"), image, fmdp.Request(degraded=True, sigma=0.3))
np.save(folder / "restored.npy", restored.images)

import fmdp.main
fmdp.main.cli([
    "--mode=restore", "--checkpoint=fashion_mnist", f"--input={folder / 'image.png'}", f"--output={folder / 'out'}",
    "--already_degraded", "--sigma=0.3",
])

from fmdp.io.run_dir import RunDir
with RunDir.open(str(folder / "run")).lock():
    print("locked")
"""


@pytest.mark.slow
def test_loading_and_restoring_need_nothing_of_posix(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    image = pixels[..., None].astype(np.float32) / 127.5 - 1
    np.save(tmp_path / "image.npy", image)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "locked"
    assert "cannot be locked (this system has no such locks): start no second run in it" in done.stderr
    expected = restore(load("fashion_mnist"), image, Request(degraded=True, sigma=0.3)).images
    np.testing.assert_allclose(np.load(tmp_path / "restored.npy"), expected, atol=1e-5)
    written = np.asarray(Image.open(tmp_path / "out" / "image.png")).reshape(28, 28).astype(int)
    assert np.abs(written - np.round((expected[0, 0, ..., 0].clip(-1, 1) + 1) * 127.5)).max() <= 1
    assert json.loads((tmp_path / "out" / "image.json").read_text())["sigma"] == 0.3
