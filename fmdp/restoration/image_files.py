"""Picture files in, restored picture files out: what --mode=restore does with a file or a folder."""

import collections
import itertools
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from fmdp.data import folder
from fmdp.data.containers import to_uint8
from fmdp.data.decoding import MAX_PIXELS, SUFFIXES, ImagePreprocessor, UnusableError, open_file
from fmdp.errors import InputError, printable
from fmdp.io.files import atomic_write, is_disk_full, read_json, write_json
from fmdp.restoration.request import Request
from fmdp.restoration.restore import Restored, restore
from fmdp.types import SizedField

MAX_STEM_BYTES = 200  # bytes of a picture's stem; most disks take names of 255


def find_images(source: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """The pictures to restore: a file, or those in a folder and its subfolders, as `folder.names` finds them.

    Raises:
      InputError: there are none, or the output folder is where the pictures are, or a file.
    """
    try:
        if output.exists() and not output.is_dir():
            raise InputError(f"--output={output} is a file: name a folder, or one that does not exist yet")
    except OSError as error:
        raise InputError(f"--output={output} cannot be reached ({error.strerror}): name another folder") from error
    if not source.exists():
        raise InputError(f"--input={source} does not exist: name a picture or a folder of pictures")
    if not source.is_dir():
        if output.resolve() == source.resolve().parent:
            raise InputError(
                f"--output={output} is the folder of --input={source}: name another, to keep what is there"
            )
        return [source]
    if _inside(output, source):
        raise InputError(f"--output={output} lies inside --input={source}: name a folder elsewhere")
    found = [source / name for name in folder.list_names(source)]
    if not found:
        raise InputError(f"--input={source} holds no pictures: files of {', '.join(sorted(SUFFIXES))} are")
    return found


def output_paths(
    paths: list[pathlib.Path], source: pathlib.Path, output: pathlib.Path, request: Request
) -> Iterator[pathlib.Path]:
    """Where the files of each picture go, without an ending; no two pictures share one of them.

    Pictures of one stem get their suffix into the name, and a number where that is not enough. Capitals and small
    letters count as the same, as on the disks of many. A stem too long for its endings is cut.
    """
    root = source if source.is_dir() else source.parent
    bare = [path.relative_to(root).parent / _stem(path) for path in paths]
    times, taken = collections.Counter(bare), set[str]()
    for path, name in zip(paths, bare, strict=True):
        longer = f"{name.name}_{path.suffix[1:].lower()}"
        numbered = (f"{longer}_{i}" for i in itertools.count(2))
        for stem in itertools.chain([] if times[name] > 1 else [name.name], [longer], numbered):
            files = {str(name.with_name(stem + ending)).casefold() for ending in file_endings(request)}
            if taken.isdisjoint(files):
                break
        taken |= files
        yield output / name.with_name(stem)


def file_endings(request: Request) -> list[str]:
    """What is added to a picture's name for its files: for each lookahead its image and spread, and three for all."""
    each = [f"_r{r:.2f}" if len(request.lookaheads) > 1 else "" for r in request.lookaheads]
    return [*(name + end for name in each for end in (".png", "_std.png")), "_measured.png", "_sheet.png", ".json"]


def read_image(path: pathlib.Path) -> np.ndarray:
    """A picture file as [h, w, 1 or 3] in [-1, 1], upright, its transparent parts white, 16 bits scaled down to 8.

    Raises:
      UnusableError: it is no picture, too large, or damaged.
    """
    frame = ImagePreprocessor(size=1, channels=3, max_pixels=MAX_PIXELS, keys="")
    with open_file(path) as file:
        pixels = np.asarray(frame.upright(file), np.float32) / 127.5 - 1
    gray = (pixels == pixels[..., :1]).all()
    return pixels[..., :1] if gray else pixels


def restore_files(
    prior: SizedField, request: Request, source: pathlib.Path, output: pathlib.Path, made_by: dict
) -> tuple[int, list[str]]:
    """Restore every picture of the source into the output folder.

    Each leaves NAME.png (with several lookaheads NAME_r0.50.png and a contact sheet, with several samples their mean
    and NAME_std.png), NAME_measured.png, and NAME.json with all settings and what was found out. The map of standard
    deviations is black for none and white for the largest, which the JSON file tells as white_of_std, in [-1, 1].

    Args:
      prior: as for `restoring.restore`.
      made_by: what else each JSON file shall say, such as the checkpoint.

    Returns:
      How many were restored, and one line for each that could not be.

    Raises:
      InputError: there are no pictures, the request or the folders cannot be used, or the disk is full.
    """
    request.check()
    paths = find_images(source, output)
    done, faults = 0, []
    sources = {os.path.realpath(path) for path in paths}
    with tqdm(paths, unit="picture") as bar:
        for path, target in zip(bar, output_paths(paths, source, output, request), strict=True):
            try:
                if not _inside(target.parent, output):
                    raise InputError(f"{target.parent} leads out of --output={output}: name another folder")
                _check_free(target, request, sources)
                began = time.monotonic()
                restored = restore(prior, read_image(path), request)
                seconds = time.monotonic() - began
                write_result(target, path, restored, request, made_by | {"seconds": seconds})
                done += 1
                for line in _told(restored, request):
                    bar.write(printable(f"{path}: {line}"))
            except (UnusableError, InputError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
                if is_disk_full(error):
                    room = f"no room in {output}, {done} restored before {path}"
                    raise InputError(f"{room}: make room, and start the same command again") from error
                if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                short = isinstance(error, MemoryError | jax.errors.JaxRuntimeError)
                faults.append(printable(f"{path}: {'there is not enough memory for it' if short else error}"))
                bar.write(faults[-1])
    return done, faults


def write_result(target: pathlib.Path, path: pathlib.Path, restored: Restored, request: Request, made_by: dict) -> None:
    """Write all files of one restored picture."""
    target.parent.mkdir(parents=True, exist_ok=True)
    names = [f"_r{r:.2f}" if len(request.lookaheads) > 1 else "" for r in request.lookaheads]
    largest = []
    for name, draws in zip(names, restored.images, strict=True):
        _save(target.with_name(f"{target.name}{name}.png"), draws.mean(0))
        if request.num_samples > 1:
            spread = np.sqrt(draws.var(0, ddof=1).mean(-1))
            largest.append(float(spread.max()))
            _save(target.with_name(f"{target.name}{name}_std.png"), 2 * spread[..., None] / max(largest[-1], 1e-12) - 1)
    if restored.measured.ndim == 3 and restored.measured.shape[-1] in (1, 3):
        _save(target.with_name(f"{target.name}_measured.png"), restored.measured)
    if len(request.lookaheads) > 1:
        draw_sheet(target.with_name(f"{target.name}_sheet.png"), restored, request)
    unused = ("num_samples", "steps", "gain") if request.operator == "denoising" else ()
    asked = {name: value for name, value in vars(request).items() if name not in unused}
    settings: dict[str, Any] = {"input": path.name} | asked | {"operator": request.name} | made_by | restored.facts
    settings |= {"white_of_std": largest} if largest else {}
    settings |= {"backend": jax.default_backend()}
    write_json(target.with_name(f"{target.name}.json"), json.loads(json.dumps(settings, default=_plain)))


def draw_sheet(path: pathlib.Path, restored: Restored, request: Request) -> None:
    """Draw what was measured beside what each lookahead makes of it, and the clean picture where it is known."""
    tiles = [] if restored.clean is None else [(restored.clean, "clean")]
    if restored.measured.ndim == 3 and restored.measured.shape[-1] in (1, 3):
        tiles.append((restored.measured, "measured"))
    for i, r in enumerate(request.lookaheads):
        psnr = f"\n{restored.facts['psnr'][i]:.2f} dB" if "psnr" in restored.facts else ""
        ends = {0.0: " (least error)", 1.0: " (best perception)"} if request.name == "denoising" else {}
        tiles.append((restored.images[i].mean(0), f"lookahead {r:g}{ends.get(r, '')}{psnr}"))
    figure = Figure(figsize=(2.4 * len(tiles), 3.0), layout="constrained")
    for axis, (image, title) in zip(figure.subplots(1, len(tiles), squeeze=False)[0], tiles, strict=True):
        axis.imshow(to_uint8(image), cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=140)


def _told(restored: Restored, request: Request) -> list[str]:
    facts = restored.facts
    lines = list(facts["notes"])
    if "psnr" in facts:
        found = ", ".join(f"{psnr:.2f}" for psnr in facts["psnr"])
        lines.append(f"PSNR {found} dB at lookahead {', '.join(f'{r:.3g}' for r in request.lookaheads)}")
    if facts["sigma_estimated"]:
        lines.append(f"noise estimated: --sigma={facts['sigma']:.4f}")
    if facts["tiles"] > 1:
        height, width, _ = facts["tile"]
        lines.append(f"restored in {facts['tiles']} overlapping tiles of {height}x{width}, the size trained on")
    return lines


def _check_free(target: pathlib.Path, request: Request, sources: set[str]) -> None:
    """Raises InputError where something other than an earlier restoration would be replaced."""
    settings = target.with_name(f"{target.name}.json")
    try:
        ours = "lookaheads" in read_json(settings)
    except InputError:
        ours = False
    for file in (target.with_name(target.name + ending) for ending in file_endings(request)):
        if os.path.realpath(file) in sources or (os.path.lexists(file) and not ours):
            raise InputError(f"{file} is there already, and not from restoring: name another --output, or remove it")


def _plain(value: Any) -> Any:
    """Masks and kernels by their shape, as the command that names their files is told too; other things by name."""
    return f"array of shape {value.shape}" if isinstance(value, np.ndarray | jax.Array) else str(value)


def _inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a path, its links followed, lies in a folder or is it."""
    return pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _stem(path: pathlib.Path) -> str:
    """The name without its suffix, short enough for every ending."""
    stem = path.stem if path.stem.strip(".") else "picture"
    while len(os.fsencode(stem)) > MAX_STEM_BYTES:
        stem = stem[:-1]
    return stem


def _save(path: pathlib.Path, image: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary)
