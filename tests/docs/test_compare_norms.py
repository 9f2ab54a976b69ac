"""The comparison of norms that docs/photos/README.md shows."""

import runpy

import jax
import numpy as np
import pytest
from PIL import Image

import fmdp
from fmdp.benchmark.pictures import draw_noise
from fmdp.errors import InputError
from fmdp.flow.interpolant import time_of_sigma
from fmdp.metrics.distortion import clipped_psnr
from tests.docs.test_doctests import ROOT
from tests.support.tiny_unet import TILE, tiny_unet

SCRIPT = runpy.run_path(str(ROOT / "docs" / "photos" / "compare_norms.py"))


def test_crops_whole_pictures_and_tiles_are_the_field_on_each():
    prior, side, sigma = tiny_unet(), 2 * TILE, 25.0
    clean = np.random.default_rng(0).uniform(-1, 1, (side, side, 3)).astype(np.float32)
    scores = SCRIPT["score"](prior, {"one.png": clean}, (sigma,))
    noisy = clean + np.float32(sigma / 127.5) * draw_noise(0, "one.png", clean.shape)
    s = float(time_of_sigma(sigma / 127.5))
    x = s * noisy
    corners = [(i, j) for i in (0, TILE) for j in (0, TILE)]
    denoise = jax.jit(lambda x, t: fmdp.denoise(prior, x, s, t))
    for column, t in enumerate((s, 1.0)):
        crops = np.empty_like(clean)
        for i, j in corners:
            crops[i : i + TILE, j : j + TILE] = denoise(x[i : i + TILE, j : j + TILE], t)
        assert scores["crops"][0, column] == pytest.approx(float(clipped_psnr(crops, clean)), abs=1e-3)
        assert scores["whole"][0, column] == pytest.approx(
            float(clipped_psnr(np.asarray(denoise(x, t)), clean)), abs=1e-3
        )
    assert len({float(values[0, 0]) for values in scores.values()}) == 3
    with pytest.raises(InputError, match=r"give --side as a multiple of 16"):
        SCRIPT["score"](prior, {"one.png": clean[:20, :20]})


def test_differences_are_taken_picture_by_picture():
    """Two pictures that differ by much more than the runs do."""
    baseline, other = np.array([[30.0, 20.0], [40.0, 30.0]]), np.array([[31.0, 20.0], [41.0, 32.0]])
    lines = SCRIPT["table"]({"a": {"whole": baseline}, "b": {"whole": other}}, (50.0,)).splitlines()
    assert lines == [
        "| run | pictures | t = s, 50 | t = 1, 50 |",
        "|---|---|---|---|",
        "| a | whole | 35.00 ± 5.00 | 25.00 ± 5.00 |",
        "| b | whole | 36.00 (+1.00 ± 0.00) | 26.00 (+1.00 ± 1.00) |",
    ]


def test_squares_are_the_middles_of_pictures_that_lie_evenly(tmp_path):
    for i in range(5):
        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[6:14, 11:19] = 50 * i
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    squares = SCRIPT["read_squares"](str(tmp_path), 3, 8)
    assert list(squares) == ["0.png", "2.png", "4.png"]
    levels = [np.unique(square).item() for square in squares.values()]  # one level each: nothing but the middle
    assert levels == pytest.approx([-1, 100 / 127.5 - 1, 200 / 127.5 - 1])
    with pytest.raises(InputError, match=r"0.png has 20x30 pixels: give --side"):
        SCRIPT["read_squares"](str(tmp_path), 3, 24)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no finished run"):
        SCRIPT["find_runs"](tmp_path)
