"""How a result was made: the command, the versions of what it ran on, the configuration."""

import platform
import shlex
import sys
from typing import Any

from ml_collections import ConfigDict

from fmdp.config.defaults import as_plain_dict
from fmdp.io.packages import installed_version

LIBRARIES = ("fmdp", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn", "matplotlib")


def provenance_of_run(config: ConfigDict | None = None) -> dict[str, Any]:
    """{"command", "versions" by library, and "config" where there is one} of this process, ready for JSON."""
    versions = {"python": platform.python_version()} | {library: installed_version(library) for library in LIBRARIES}
    found = {"command": shlex.join(["python", *sys.orig_argv[1:]]), "versions": versions}
    return found | ({} if config is None else {"config": as_plain_dict(config)})
