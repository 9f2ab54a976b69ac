"""Image files in, restored image files out: finding, naming, reading and writing them."""

import collections
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fmdp.data import folder
from fmdp.data.unusable import UnusableError
from fmdp.errors import InputError, ParameterError
from fmdp.io.files import is_disk_full, read_json, write_json
from fmdp.restoration.output_formats import PNG, OutputFormat
from fmdp.restoration.picture_files import RESTORABLE, read_requested
from fmdp.restoration.prepare import Picture
from fmdp.restoration.request import Request
from fmdp.restoration.restore import Restored, restore
from fmdp.restoration.tiles import choose_tiles
from fmdp.types import SizedField

DEFAULT_OUTPUT = "restored"  # a folder
MAX_STEM_BYTES = 200  # of an image's name without its ending; most disks take names of 255

DrawOverview = Callable[[pathlib.Path, Restored, Request], None]
Adapt = Callable[[Request, Picture], Request]


class Outcome(NamedTuple):
    """What became of one image file: it was restored as the request says, or could not be because of an error."""

    path: pathlib.Path
    restored: Restored | None = None
    error: Exception | None = None
    request: Request | None = None


def default_output(source: pathlib.Path) -> pathlib.Path:
    """Where results go unless another folder is named: the folder `restored` beside the image, or beside its folder."""
    named = source.resolve() if source.name in ("", "..") else source
    return named.parent / DEFAULT_OUTPUT


def find_images(source: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """The images to restore: one file, or those in a folder and its subfolders, as `folder.list_names` finds them.

    Results in the subfolder `restored`, where those of single images in the folder go, are left out.

    Raises:
      ParameterError: there are none, or the output folder is a file or where the images are.
    """
    try:
        if output.exists() and not output.is_dir():
            raise _output_error(output, "it is a file: name a folder, or one that does not exist yet")
    except OSError as error:
        raise _output_error(output, f"it cannot be reached ({error.strerror}): name another folder") from error
    if not source.exists():
        raise _source_error(source, "it does not exist: name an image or a folder of images")
    if not source.is_dir():
        if output.resolve() == source.resolve().parent:
            raise _output_error(output, "it is the folder of the image: name another, to keep what is there")
        return [source]
    if _is_inside(output, source):
        raise _output_error(output, "it lies inside the folder of the images: name a folder elsewhere")
    found = [source / name for name in folder.list_names(source, RESTORABLE)]
    if any(_files_of(path) is not None for path in (source / DEFAULT_OUTPUT).glob("*.json")):
        found = [path for path in found if not path.is_relative_to(source / DEFAULT_OUTPUT)]
    if not found:
        raise _source_error(source, f"it holds no images: files of {', '.join(sorted(RESTORABLE))} are")
    return found


def output_paths(
    paths: list[pathlib.Path], source: pathlib.Path, output: pathlib.Path, request: Request, form: OutputFormat = PNG
) -> Iterator[pathlib.Path]:
    """Where the files of each image go, without an ending; no two images share one of them.

    Images of one stem get their suffix into the name, and a number where that is not enough. Upper and lower case
    count as the same, as on many disks. A stem too long for its endings is cut.
    """
    root = source if source.is_dir() else source.parent
    bare = [path.relative_to(root).parent / _stem(path) for path in paths]
    times, taken = collections.Counter(bare), set[str]()
    for path, name in zip(paths, bare, strict=True):
        longer = f"{name.name}_{path.suffix[1:].lower()}"
        numbered = (f"{longer}_{i}" for i in itertools.count(2))
        for stem in itertools.chain([] if times[name] > 1 else [name.name], [longer], numbered):
            files = {str(name.with_name(stem + ending)).casefold() for ending in file_endings(request, form)}
            if taken.isdisjoint(files):
                break
        taken |= files
        yield output / name.with_name(stem)


def file_endings(request: Request, form: OutputFormat = PNG) -> list[str]:
    """What the names of an image's files end in: image and spread of each lookahead, and four for all of them."""
    images = [name + ending for name in _lookahead_names(request) for ending in (form.suffix, "_std" + form.suffix)]
    return [*images, "_measured" + form.suffix, "_sheet.png", ".html", ".json"]


def restore_files(
    prior: SizedField,
    request: Request,
    source: pathlib.Path,
    output: pathlib.Path,
    made_by: dict[str, Any],
    draw_overview: DrawOverview | None = None,
    form: OutputFormat = PNG,
    adapt: Adapt | None = None,
) -> Iterator[Outcome]:
    """Restore the images of the source into the output folder, one with each step of the iteration.

    Each leaves NAME.png (with several lookaheads NAME_r0.50.png for each, with several samples their mean and
    NAME_std.png), NAME_measured.png, and NAME.json with all settings and facts. The map of standard deviations is
    black for zero and white for the largest, which the JSON file holds as white_of_std, on the [-1, 1] scale; files of
    floats hold it as it is.

    Args:
      prior: as for `restore`.
      source, output: as for `find_images`.
      made_by: what else each JSON file says, such as the checkpoint.
      draw_overview: writes NAME.html and NAME_sheet.png where there are several lookaheads; its path is that of NAME.
      form: how images are written, one of `OUTPUT_FORMATS`.
      adapt: changes the request for a picture; the number of lookaheads and of samples stays.

    Raises:
      InputError: there are no images, the prior takes no such tiles, the folders cannot be used, or the disk is full.
    """
    paths = find_images(source, output)
    choose_tiles(prior, request)  # what no image can be restored with is said once
    done, sources = 0, {os.path.realpath(path) for path in paths}
    for path, target in zip(paths, output_paths(paths, source, output, request, form), strict=True):
        try:
            earlier = _check_target(target, output, request, sources, form)
            began = time.monotonic()
            picture = read_requested(path, request)
            asked = adapt(request, picture) if adapt else request
            restored = restore(prior, picture, asked)
            found = {"seconds": time.monotonic() - began}
            write_result(target, path, restored, asked, made_by | found, draw_overview, form, picture.profile, earlier)
        except (UnusableError, InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
            if is_disk_full(error):
                room = f"no room in {output}, {done} restored before {path}"
                raise InputError(f"{room}: make room, and start the same command again") from error
            yield Outcome(path, error=_out_of_memory(error) or error)
        else:
            done += 1
            yield Outcome(path, restored, request=asked)


def write_result(
    target: pathlib.Path,
    path: pathlib.Path,
    restored: Restored,
    request: Request,
    made_by: dict[str, Any],
    draw_overview: DrawOverview | None = None,
    form: OutputFormat = PNG,
    profile: bytes | None = None,
    earlier: Collection[str] = (),
) -> None:
    """Write all files of one restored image, its pictures with the profile; the JSON file comes last.

    Files of an earlier restoration that this one does not replace are removed: they would belong to other settings.

    Args:
      earlier: the names of these files.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    largest, written = [], []

    def save(ending: str, image: np.ndarray, profile: bytes | None = None) -> None:
        written.append(f"{target.name}{ending}{form.suffix}")
        form.save(target.with_name(written[-1]), image, profile)

    for name, samples in zip(_lookahead_names(request), restored.images, strict=True):
        save(name, samples.mean(0), profile)
        if request.num_samples > 1:
            spread = np.sqrt(samples.var(0, ddof=1).mean(-1, keepdims=True))
            largest.append(float(spread.max()))
            save(f"{name}_std", spread if form.exact else 2 * spread / max(largest[-1], 1e-12) - 1)
    if form.exact or is_image(restored.measured):
        save("_measured", restored.measured, profile)
    if draw_overview and len(request.lookaheads) > 1:
        draw_overview(target, restored, request)
        written += [f"{target.name}_sheet.png", f"{target.name}.html"]
    unused = ("num_samples", "steps", "gain") if request.denoises else ()
    asked = {name: value for name, value in vars(request).items() if name not in unused}
    settings: dict[str, Any] = {"input": path.name} | asked | {"operator": request.name} | made_by | restored.facts
    settings |= {"white_of_std": largest} if largest else {}
    settings |= {"output_format": form.name, "backend": jax.default_backend(), "files": written}
    write_json(target.with_name(f"{target.name}.json"), json.loads(json.dumps(settings, default=_plain)))
    for name in set(earlier) - set(written):
        target.with_name(name).unlink(missing_ok=True)


def _files_of(path: pathlib.Path) -> set[str] | None:
    """The names of the pictures and pages of an earlier restoration, by its JSON file; None if it describes none."""
    try:
        settings = read_json(path)
    except InputError:
        return None
    if "lookaheads" not in settings:
        return None
    names = settings.get("files")
    names = map(str, names) if isinstance(names, list) else ()
    return {name for name in names if name == pathlib.Path(name).name != path.name}


def is_image(measured: np.ndarray) -> bool:
    """Whether a measurement can be shown: it is [H, W, 1 or 3]."""
    return measured.ndim == 3 and measured.shape[-1] in (1, 3)


def _lookahead_names(request: Request) -> list[str]:
    """What tells the files of the lookaheads apart."""
    return [f"_r{r:.2f}" if len(request.lookaheads) > 1 else "" for r in request.lookaheads]


def _check_target(
    target: pathlib.Path, output: pathlib.Path, request: Request, sources: set[str], form: OutputFormat
) -> set[str]:
    """The names of the files of an earlier restoration, which may be replaced or removed.

    Raises:
      ParameterError: files would leave the output folder, or replace any others.
    """
    if not _is_inside(target.parent, output):
        raise _output_error(output, f"{target.parent} leads out of it: name another folder")
    earlier = _files_of(target.with_name(f"{target.name}.json"))
    for file in (target.with_name(target.name + ending) for ending in file_endings(request, form)):
        if os.path.realpath(file) in sources or (os.path.lexists(file) and earlier is None):
            raise _output_error(output, f"{file} is not from restoring: name another folder, or remove the file")
    return earlier or set()


def _out_of_memory(error: Exception) -> UnusableError | None:
    """What to say where memory is exhausted; None for other errors, of which those of XLA itself are raised again."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    exhausted = isinstance(error, MemoryError | jax.errors.JaxRuntimeError)
    return UnusableError("there is not enough memory for it") if exhausted else None


def _source_error(source: pathlib.Path, remedy: str) -> ParameterError:
    return ParameterError("restore_files", "source", str(source), remedy)


def _output_error(output: pathlib.Path, remedy: str) -> ParameterError:
    return ParameterError("restore_files", "output", str(output), remedy)


def _plain(value: Any) -> Any:
    """Numbers as Python's, masks and kernels by shape, since the command names their files, other objects by name."""
    if isinstance(value, np.generic):
        return value.item()
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray | jax.Array) else str(value)


def _is_inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a path, its links followed, lies in a folder or is that folder."""
    return pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _stem(path: pathlib.Path) -> str:
    """The name without its suffix, short enough for every ending."""
    stem = path.stem if path.stem.strip(".") else "picture"
    while len(os.fsencode(stem)) > MAX_STEM_BYTES:
        stem = stem[:-1]
    return stem
