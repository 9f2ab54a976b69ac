"""The slider as an animation: knob.gif, from minimum error to perfect perception."""

import pathlib

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fmdp.io.files import atomic_write
from fmdp.reporting.curves import STYLE
from fmdp.reporting.panels import Panel, Plane, set_scales

SIZE = (7.2, 3.4)  # hundreds of pixels
IMAGES = 3
FRAME, PAUSE = 140, 1200  # milliseconds: of a frame, and of the first and last
COLOURS = 128


def write_gif(path: pathlib.Path, panel: Panel) -> None:
    """Draw the marker moving along the first curve of a panel's first plane, and the restored images changing."""
    save_gif(path, _frames(panel))


def save_gif(path: pathlib.Path, frames: list[Image.Image], colours: int = COLOURS) -> None:
    """Write the frames as an animation that rests on the first and the last one; all share the palette of the last."""
    palette = frames[-1].quantize(colours)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [PAUSE, *[FRAME] * (len(frames) - 2), PAUSE][: len(frames)]
    with atomic_write(path) as temporary:
        indexed[0].save(temporary, save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True)


def _frames(panel: Panel) -> list[Image.Image]:
    """One frame for each position of the slider."""
    plane, figure = panel.planes[0], Figure(figsize=SIZE, dpi=100)
    canvas = FigureCanvasAgg(figure)
    alone = panel.restored is None
    axis = figure.add_axes((0.1, 0.15, 0.86 if alone else 0.44, 0.7))
    _draw_plane(axis, plane)
    (marker,) = axis.plot([], [], "o", ms=13, mfc="white", mec=STYLE["lookahead"]["color"], mew=4, zorder=9)
    figure.suptitle(f"One network, one knob: the lookahead ({panel.name})", x=0.01, ha="left", fontsize=11)
    title, shown = _draw_pictures(figure, panel) if not alone else (axis.set_title(""), [])
    frames = []
    for k, position in enumerate(panel.positions):
        marker.set_data([plane.curves[0].x[k]], [plane.curves[0].y[k]])
        title.set_text(position)
        for picture, images in shown:
            picture.set_data(images[k])
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return frames


def _draw_plane(axis, plane: Plane) -> None:
    for curve in plane.curves:
        if curve.style in ("lookahead", "chord"):
            style = STYLE[curve.style] | {"marker": ".", "ms": 6, "lw": 2}
            axis.plot(curve.x, curve.y, label=curve.name, **style)
        elif curve.style == "frontier":
            axis.plot(curve.x, curve.y, color="0.6", lw=4, label="optimal frontier", zorder=0)
    axis.margins(0.1)
    first = plane.curves[0]
    if plane.band:
        axis.axhspan(*plane.band, color="0.5", alpha=0.25, lw=0, label="real against real")
    set_scales(axis, plane)
    for k, text, offset in ((0, "t = s", (11, 4)), (-1, "t = 1", (-2, 13))):
        side = "left" if k == 0 else "right"
        axis.annotate(text, (first.x[k], first.y[k]), offset, textcoords="offset points", fontsize=9, ha=side)
    axis.set_xlabel("error (MSE per pixel), left is more faithful", fontsize=8)
    axis.set_ylabel(f"{plane.label.split(' to ')[0]}, lower is more real", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7)


def _draw_pictures(figure: Figure, panel: Panel):
    """The title of the restored column, and each of its pictures with the images for all positions."""
    assert panel.clean is not None
    assert panel.measured is not None
    assert panel.restored is not None
    images = min(IMAGES, len(panel.clean))
    axes = figure.subplots(
        images,
        3,
        squeeze=False,
        gridspec_kw={"left": 0.58, "right": 0.995, "bottom": 0.02, "top": 0.82, "wspace": 0.04, "hspace": 0.04},
    )
    shown = []
    for row, line in enumerate(axes):
        for axis, picture in zip(line, (panel.measured[row], panel.restored[0, row], panel.clean[row]), strict=True):
            drawn = axis.imshow(picture, cmap=colormaps["gray"], vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if axis is line[1]:
                shown.append((drawn, panel.restored[:, row]))
    for axis, name in zip(axes[0], ("noisy", "", "original"), strict=True):
        axis.set_title(name, fontsize=10)
    return axes[0, 1].title, shown
