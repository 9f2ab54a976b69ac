"""The published weights of the metric networks: finding, verifying and converting them.

Nothing is downloaded. A published file is converted once to an .npz with the parameters in the cache, which later runs
read. Reading either file cannot run code.
"""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from fmdp.errors import InputError, translating
from fmdp.io.archives import load_npz
from fmdp.io.files import atomic_write
from fmdp.metrics.convert_weights import inception_params, lpips_params, params_shapes
from fmdp.metrics.inception import Inception
from fmdp.metrics.lpips import LPIPS

AUTO = "auto"
NETWORKS = {"inception": ("inception",), "lpips": ("lpips_alex", "lpips_vgg")}  # by their keys in config.evaluate


class File(NamedTuple):
    """A published file: the pattern of its name, the first digits of its SHA-256, and its origin."""

    pattern: str
    digest: str
    source: str


class Source(NamedTuple):
    """A network, the published files that hold its weights, and the function that converts their arrays."""

    network: Inception | LPIPS
    files: Sequence[File]
    convert: Callable[[Mapping[str, np.ndarray]], dict]


class Weights(NamedTuple):
    """A network with its parameters and the names of the files that they came from."""

    network: Inception | LPIPS
    params: dict
    origin: str


def _lpips(backbone: str, trunk: File, linear: str) -> Source:
    network = LPIPS(backbone)
    calibration = File(f"{backbone}.pth", linear, f"lpips/weights/v0.1/{backbone}.pth of the PyPI package lpips")
    return Source(network, (trunk, calibration), partial(lpips_params, network))


# Files of the torch hub have the digest in their names; the rest of a name depends on the publisher.
SOURCES = {
    "inception": Source(
        Inception(),
        [File("*-6726825d.pth", "6726825d", "pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid's releases")],
        inception_params,
    ),
    "lpips_alex": _lpips(
        "alex",
        File("*-7be5be79.pth", "7be5be79", "alexnet-owt-7be5be79.pth of torchvision's models"),
        "df73285e35b22355",
    ),
    "lpips_vgg": _lpips(
        "vgg", File("*-397923af.pth", "397923af", "vgg16-397923af.pth of torchvision's models"), "a78928a0af1e5f0f"
    ),
}


def cache_folder() -> pathlib.Path:
    """The folder of converted weights, where published ones can be put as well."""
    return pathlib.Path.home() / ".cache" / "fmdp" / "weights"


def find_weights(name: str, where: str) -> list[pathlib.Path]:
    """The files with the weights of a network, converted (one .npz) or published; [] if there are none.

    Args:
      name: one of SOURCES.
      where: a folder, a file that holds all weights, or "auto": the cache, the torch hub's and an installed lpips.
    """
    files, path = SOURCES[name].files, pathlib.Path(where).expanduser()
    if where != AUTO and path.is_file():
        return [path] if path.suffix == ".npz" or len(files) == 1 else []
    folders = _folders() if where == AUTO else [path]
    for patterns in ([f"{name}.npz"], [file.pattern for file in files]):
        found = [next((p for folder in folders for p in sorted(folder.glob(wanted))), None) for wanted in patterns]
        paths = [path for path in found if path is not None]
        if len(paths) == len(patterns):
            return paths
    return []


def describe_wanted(name: str) -> str:
    """A description of the published files of a network."""
    return " and ".join(file.source for file in SOURCES[name].files)


def check_weights_setting(key: str, where: str) -> None:
    """Refuse weights that could not be loaded later, before a run takes any time.

    Args:
      key: of config.evaluate, one of NETWORKS.
      where: its value, as for `find_weights`, or "" for no weights.

    Raises:
      InputError: there are no weights for any network of the key, or a file is not the published one.
    """
    found = {name: find_weights(name, where) for name in NETWORKS[key] if where}
    if where not in ("", AUTO) and not any(found.values()):
        needed = " or ".join(f"{describe_wanted(name)} for {name}" for name in found)
        raise InputError(f"config.evaluate.{key} = {where!r}: no weights there; it needs {needed}")
    for name, paths in found.items():
        _verify(name, paths)


def _folders() -> list[pathlib.Path]:
    """The usual folders of weights, starting with the cache."""
    home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    hub = pathlib.Path(os.environ.get("TORCH_HOME", pathlib.Path(home) / "torch")) / "hub" / "checkpoints"
    spec = importlib.util.find_spec("lpips")  # does not import it
    packages = spec.submodule_search_locations if spec is not None else None
    return [cache_folder(), hub, *(pathlib.Path(folder) / "weights" / "v0.1" for folder in packages or ())]


def load_weights(name: str, where: str) -> Weights | None:
    """A network with the weights that `find_weights` finds, or None if it finds none.

    Raises:
      InputError: a file is not the published one, is damaged, or does not fit the network.
    """
    paths, source = find_weights(name, where), SOURCES[name]
    if not paths:
        return None
    if paths[0].suffix == ".npz":
        return _read(name, paths[0])
    _verify(name, paths)
    arrays: dict[str, np.ndarray] = {}
    for path in paths:
        arrays |= read_torch(path)
    weights = Weights(source.network, source.convert(arrays), " + ".join(path.name for path in paths))
    with contextlib.suppress(OSError):  # without a writable cache the next run converts again
        cache_folder().mkdir(parents=True, exist_ok=True)
        save_weights(cache_folder() / f"{name}.npz", weights)
    return weights


def _verify(name: str, paths: Sequence[pathlib.Path]) -> None:
    """Refuse published files with a wrong SHA-256. Converted files were verified before the conversion."""
    for path, file in zip(paths, SOURCES[name].files, strict=False):
        if path.suffix == ".npz":
            continue
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if not digest.startswith(file.digest):
            digests = f"its SHA-256 starts with {digest[:8]} instead of {file.digest[:8]}"
            raise InputError(f"{path} is damaged or another file: {digests}; get {file.source}")


def read_torch(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    """The named arrays of a torch file, by the one reader of such files.

    Raises:
      InputError: it cannot be read.
    """
    message = f"{path} cannot be read: this fmdp has no reader of torch files; convert it elsewhere"
    with translating(lambda why: message, ImportError):
        from fmdp.io.torch_files import read_state_dict
    return read_state_dict(path)


def save_weights(path: pathlib.Path, weights: Weights) -> None:
    """Write the parameters of a network to a file, which `find_weights` finds if it is called NAME.npz."""
    flat = flax.traverse_util.flatten_dict(weights.params, sep="/")
    with atomic_write(path, by_all=True) as temporary:
        np.savez(temporary, origin=np.array(weights.origin), **flat)


def _read(name: str, path: pathlib.Path) -> Weights:
    """The weights that `save_weights` wrote."""
    remedy = "remove it, and the published file will be converted again"
    with translating(lambda why: f"{path} is damaged ({why}); {remedy}", InputError):
        flat = load_npz(path)
    origin, network = str(flat.pop("origin", "")), SOURCES[name].network
    shapes = flax.traverse_util.flatten_dict(params_shapes(network), sep="/")
    if {key: x.shape for key, x in flat.items()} != {key: x.shape for key, x in shapes.items()}:
        raise InputError(f"{path} does not hold the weights of {name}; remove it, or name another file")
    params = flax.traverse_util.unflatten_dict({key: jnp.asarray(x, jnp.float32) for key, x in flat.items()}, sep="/")
    return Weights(network, params, origin)
