"""The pictures of a run, which pictures.npz stores with a digest of the numbers that belong to them."""

import pathlib
from typing import TypeAlias

import numpy as np

from fmdp.errors import InputError
from fmdp.evaluation.denoising import Sweep
from fmdp.evaluation.solver_comparison import ComparedImages
from fmdp.evaluation.summary import Summary, digest
from fmdp.io.archives import load_npz
from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8

Pictures: TypeAlias = dict[str, np.ndarray]
"""By name: uint8, "denoise/<level>/<clean|noisy|restored>" and "inverse/<task>/...", levels and tasks by number.

clean and noisy are [n, H, W] or [n, H, W, 3]; restored are [k, n, ...], in the order of the rows in summary.json.
"""

GROUPS = ("denoise", "inverse")
"""The groups of pictures, named like the sections of the summary that they illustrate."""


def denoising_pictures(clean: np.ndarray, sweeps: list[Sweep], images: int) -> Pictures:
    """The pictures of a sweep over noise levels: up to `images` images at every setting of the lookahead."""
    found: Pictures = {}
    if clean.shape[-1] not in (1, 3):  # points of a plane, for instance
        return found
    for level, swept in enumerate(sweeps):
        shown = np.linspace(0, len(swept.kept) - 1, min(images, len(swept.kept))).astype(int)
        kept = swept.kept[shown]
        found[f"denoise/{level}/clean"] = to_uint8(clean[kept])
        found[f"denoise/{level}/noisy"] = to_uint8(swept.noisy[0, kept])
        found[f"denoise/{level}/restored"] = to_uint8(swept.curves["lookahead"].restored[:, 0, shown])
    return found


def inverse_pictures(compared: dict[str, ComparedImages]) -> Pictures:
    """The pictures of a comparison of solvers: one image of each task, restored by every run that did not fail."""
    found: Pictures = {}
    for task, images in enumerate(compared.values()):
        found[f"inverse/{task}/clean"] = to_uint8(images.clean[None])
        found[f"inverse/{task}/noisy"] = to_uint8(images.measured[None])
        if images.restored:
            found[f"inverse/{task}/restored"] = to_uint8(np.stack([image for _, image in images.restored])[:, None])
    return found


def save_pictures(path: pathlib.Path, pictures: Pictures, summary: Summary) -> None:
    """Write pictures to a compressed npz, together with a digest of the numbers of each group."""
    groups = {name.split("/")[0] for name in pictures}
    digests = {_digest_name(group): np.array(digest(getattr(summary, group))) for group in groups}
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **pictures, **digests)  # type: ignore[arg-type]


def load_pictures(path: pathlib.Path, group: str, summary: Summary) -> Pictures:
    """The pictures of one of `GROUPS` that were made with the numbers in this summary.

    Empty if the file cannot be read, or if its pictures belong to other numbers.
    """
    section = getattr(summary, group)
    try:
        found = load_npz(path, lambda name: name.startswith(f"{group}/"))
    except InputError:
        return {}
    made_with = found.pop(_digest_name(group), None)
    if section is None:
        return {}
    belongs = _counts_match(found, group, summary) if made_with is None else str(made_with) == digest(section)
    return found if belongs else {}


def _digest_name(group: str) -> str:
    return f"{group}/digest"


def _counts_match(pictures: Pictures, group: str, summary: Summary) -> bool:
    """Whether there are as many pictures as numbers. Files of version 0.1.0 have no digest to compare."""
    if group == "denoise":
        counts = [len(curve.points) for curve in summary.denoise or [] if curve.knob == "lookahead"]
    else:
        rows = summary.inverse or []
        tasks = dict.fromkeys(row.task for row in rows)
        counts = [sum(row.task == task and row.failed is None for row in rows) for task in tasks]
    found = [len(pictures.get(f"{group}/{index}/restored", ())) for index in range(len(counts))]
    return found == counts
