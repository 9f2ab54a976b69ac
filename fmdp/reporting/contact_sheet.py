"""A contact sheet: one measurement beside its restorations at several lookaheads."""

import pathlib

from matplotlib import colormaps
from matplotlib.figure import Figure

from fmdp.io.files import atomic_write
from fmdp.io.levels import to_uint8
from fmdp.restoration.image_files import is_image
from fmdp.restoration.request import Request
from fmdp.restoration.restore import Restored

ENDS = {0.0: " (minimum error)", 1.0: " (perfect perception)"}


def draw_sheet(path: pathlib.Path, restored: Restored, request: Request) -> None:
    """Draw the measurement beside the restoration at each lookahead, and the clean image if it is known."""
    tiles = [] if restored.clean is None else [(restored.clean, "clean")]
    if is_image(restored.measured):
        tiles.append((restored.measured, "measured"))
    for i, r in enumerate(request.lookaheads):
        psnr = f"\n{restored.facts['psnr'][i]:.2f} dB" if "psnr" in restored.facts else ""
        end = ENDS.get(r, "") if request.denoises else ""
        tiles.append((restored.images[i].mean(0), f"lookahead {r:g}{end}{psnr}"))
    figure = Figure(figsize=(2.4 * len(tiles), 3.0), layout="constrained")
    for axis, (image, title) in zip(figure.subplots(1, len(tiles), squeeze=False)[0], tiles, strict=True):
        axis.imshow(to_uint8(image), cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=140)
