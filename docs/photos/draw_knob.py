"""Draw docs/knob.gif: the lookahead moves while a photograph is denoised.

python docs/photos/draw_knob.py docs/knob.gif
"""

import pathlib
import sys

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import fmdp
from fmdp.io.levels import to_uint8
from fmdp.reporting.animation import save_gif

LEVEL = 50  # of the noise, of 255
LOOKAHEADS = tuple(np.linspace(0, 1, 13).tolist())
DETAIL = slice(16, 112), slice(64, 160)  # hair and an eye
SIZE = (7.7, 3.5)  # hundreds of pixels


def main() -> None:
    """Restore the portrait at every lookahead, and draw one frame for each."""
    clean = pathlib.Path(__file__).parents[1] / "astronaut.png"
    request = fmdp.Request(degraded=False, sigma=LEVEL / 127.5, lookaheads=LOOKAHEADS)
    restored = fmdp.restore(fmdp.load("photos"), clean, request)
    figure = Figure(figsize=SIZE, dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.01, 0.985, "One network, one knob: the lookahead", va="top", fontsize=11)
    axes = [figure.add_axes((0.008 + 0.331 * i, 0.135, 0.323, 0.323 * SIZE[0] / SIZE[1])) for i in range(3)]
    for axis, title in zip(axes, (f"noisy (\u03c3 = {LEVEL} of 255)", "restored", "detail"), strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9, pad=3)
    axes[0].imshow(to_uint8(restored.measured))
    track = figure.add_axes((0.42, 0.02, 0.3, 0.1))
    track.set(xlim=(-0.05, 1.05), ylim=(-1, 1))
    track.axis("off")
    track.plot([0, 1], [0, 0], lw=3, color="0.7", solid_capstyle="round")
    (knob,) = track.plot([0], [0], "o", ms=12, color="C0")
    figure.text(0.41, 0.065, "t = s, least error", ha="right", va="center", fontsize=9)
    figure.text(0.73, 0.065, "t = 1, looks real", ha="left", va="center", fontsize=9)
    quality = figure.text(0.01, 0.065, "", va="center", fontsize=9)
    frames = []
    for r, samples, psnr in zip(LOOKAHEADS, restored.images, restored.facts["psnr"], strict=True):
        picture = to_uint8(samples[0])
        for axis, shown in ((axes[1], picture), (axes[2], picture[DETAIL])):
            for old in axis.images:
                old.remove()
            axis.imshow(shown, interpolation="nearest" if shown is picture else "bicubic")
        knob.set_xdata([r])
        quality.set_text(f"PSNR {psnr:.2f} dB")
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    save_gif(pathlib.Path(sys.argv[1]), frames, colours=256)


if __name__ == "__main__":
    main()
