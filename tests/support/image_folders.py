"""Folders of image files, as a configuration names them and as restoring takes them."""

import numpy as np
from absl import flags
from PIL import Image

from fmdp.cli.restore import restore_folder
from fmdp.config.defaults import default_config
from fmdp.reporting.restoration_page import draw_overview
from fmdp.restoration import image_files
from fmdp.restoration.request import Request
from tests.support.bad_input import at_most
from tests.support.zero_field import Zero

REQUEST = Request(degraded=True, sigma=0.1)


def fill(root, count=8):
    """So many good images in a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


def source(path, **changes):
    """config.data of images at a path."""
    c = default_config().data
    c.update(dict(path=str(path), size=8, test_share=0.25) | changes)
    return c


def restored(root, output, request=REQUEST, seconds=60):
    """How many images of a folder the command line restores, and one line for each of the others."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with at_most(seconds):
        return restore_folder(Zero(), request, root, output, {})


def restore_all(prior, request, root, output):
    """How many images of a folder the library restores, and what is wrong with each of the others."""
    outcomes = list(image_files.restore_files(prior, request, root, output, {"checkpoint": "none"}, draw_overview))
    errors = [f"{outcome.path}: {outcome.error}" for outcome in outcomes if outcome.error]
    return len(outcomes) - len(errors), errors
