"""Pictures of any size in tiles of a fully convolutional prior: sizes, seams, memory and programs."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.errors import InputError
from fmdp.flow.average_field import denoise, lookahead_time
from fmdp.flow.interpolant import time_of_sigma
from fmdp.flow.tiling import Tiling, starts, tiled
from fmdp.pretrained import prior as prior_files
from fmdp.restoration import tiles
from fmdp.restoration.request import Request
from fmdp.restoration.restore import restore
from tests.support.exact_priors import PRIOR
from tests.support.tiny_unet import MARGIN, TILE, TINY, tiny_unet

SIGMA = 0.2
DENOISING = Request(degraded=True, sigma=SIGMA, lookaheads=(0.0, 0.5, 1.0))


def picture(height, width, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)


@pytest.mark.device
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (33, 19)])
def test_a_picture_is_denoised_as_by_the_field_on_tiles(size):
    """The host joins the same tiles as `tiled` does in one program."""
    y, s = picture(*size), time_of_sigma(SIGMA)
    restored = restore(TINY, y, DENOISING)
    canvas = (*size, 3)
    field = tiled(TINY, canvas, TINY.image_shape, MARGIN)
    for r, image in zip(DENOISING.lookaheads, restored.images[:, 0], strict=True):
        np.testing.assert_allclose(image, denoise(field, s * y, s, lookahead_time(s, r)), atol=2e-5)
    count = np.prod([len(starts(side, TILE, MARGIN)) for side in size])
    assert restored.facts["tiles"] == count
    assert (restored.facts["tile"], restored.facts["margin"]) == ([TILE, TILE, 3], MARGIN)


def test_a_picture_smaller_than_the_coarsest_level_is_continued_by_reflection():
    y = picture(1, 1)
    restored = restore(TINY, y, DENOISING)
    assert restored.images.shape == (3, 1, 1, 1, 3)
    np.testing.assert_allclose(
        restored.images, restore(TINY, np.tile(y, (16, 16, 1)), DENOISING).images[:, :, 7:8, 7:8]
    )
    assert restored.facts["notes"] == ["padded from 1x1 to 16x16, and cropped again"]


@pytest.mark.slow
def test_plug_and_play_takes_the_same_tiles():
    """One step at s = 0, whose data step starts from zero, is one denoising of noise."""
    request = Request(operator="box_inpainting", parameters={"size": 3}, steps=2, lookaheads=(0.0, 1.0))
    restored = restore(TINY, 0.5 * picture(20, 27), request)
    assert restored.images.shape == (2, 1, 20, 27, 3)
    assert restored.facts["tiles"] == 2 * 3
    assert restored.facts["notes"] == []
    hidden = restore(TINY, 0.5 * picture(5, 20), request)
    assert hidden.images.shape == (2, 1, 5, 20, 3)


@pytest.mark.parametrize(
    ("prior", "changes", "message"),
    [
        (TINY, dict(tile=15), "Request(tile=15): this prior takes multiples of 2: set 16"),
        (TINY, dict(tile=1), "Request(tile=1): this prior takes multiples of 2: set 2"),
        (PRIOR, dict(tile=16), "Request(tile=16): this prior only takes images of 8x8: leave it out"),
        (TINY, dict(memory_gb=1e-6), "Request(memory_gb=1e-06): one tile of 16x16"),
    ],
)
def test_tiles_that_the_prior_does_not_take_are_one_line(prior, changes, message):
    with pytest.raises(InputError) as refused:
        restore(prior, picture(20, 20), Request(degraded=True, sigma=0.1, **changes))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_least_memory_that_is_named_is_enough():
    with pytest.raises(InputError) as refused:
        tiles.choose_tiles(TINY, Request(tile=256, memory_gb=1e-6))
    least = float(re.search(r"takes about ([\d.]+): set at least that", str(refused.value))[1])
    assert tiles.choose_tiles(TINY, Request(tile=256, memory_gb=least)).at_once == 1
    with pytest.raises(InputError):
        tiles.choose_tiles(TINY, Request(tile=256, memory_gb=least - 0.01))


def test_a_request_overrides_the_tiles_of_the_prior(monkeypatch):
    assert tiles.choose_tiles(TINY, Request())[:2] == ((16, 16, 3), 4)
    assert tiles.choose_tiles(TINY, Request(tile=64))[:2] == ((64, 64, 3), 4)
    assert tiles.choose_tiles(TINY, Request(tile=12))[:2] == ((12, 12, 3), 2)  # a quarter, in steps of 2
    assert tiles.choose_tiles(TINY, Request(tile=2))[:2] == ((2, 2, 3), 0)
    assert tiles.choose_tiles(tiny_unet(), Request())[:2] == ((16, 16, 3), 2)  # that of its training images
    assert tiles.choose_tiles(PRIOR, Request(tile=8)) == tiles.choose_tiles(PRIOR, Request())
    if jax.default_backend() == "cpu":
        each = 4 * TINY.floats_per_pixel * TILE**2
        monkeypatch.setattr(tiles, "_free_memory", lambda device: each / 2)
        assert tiles.choose_tiles(TINY, Request()).at_once == 1


def test_the_memory_of_a_tile_is_not_underestimated():
    """XLA's own count of what an evaluation holds at once."""
    x = jnp.zeros((1, 64, 64, 3))
    compiled = jax.jit(lambda prior, x: prior(x, 0.5, 0.5)).lower(TINY, x).compile()
    counted = compiled.memory_analysis().temp_size_in_bytes
    assert counted <= 4 * TINY.floats_per_pixel * 64**2 <= 4 * counted


def test_a_folder_of_thirty_sizes_compiles_one_program_of_the_network_and_none_for_a_size():
    compiled = []

    def record(name, seconds, **about):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, (30, 2))
    tiles._denoise_batch.clear_cache()
    restore(TINY, picture(9, 9), Request(degraded=True, sigma=0.1))  # the keys of the request, for all sizes
    tiles._denoise_batch.clear_cache()
    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        for height, width in sizes:
            restore(TINY, picture(height, width), Request(degraded=True, lookaheads=(0.0, 1.0)))
    finally:
        jax.monitoring.unregister_event_duration_listener(record)
    assert tiles._denoise_batch._cache_size() == 1
    assert len(compiled) <= 3


def test_a_tiling_is_kept_with_the_weights(tmp_path):
    prior_files.save(tmp_path / "tiny", TINY)
    assert prior_files.load(tmp_path / "tiny").tiling == Tiling(TILE, MARGIN)
    prior_files.save(tmp_path / "plain", tiny_unet())
    assert prior_files.load(tmp_path / "plain").tiling is None
    path = tmp_path / "tiny" / "model.json"
    model = json.loads(path.read_text())
    for damaged in ({"size": 16}, {"size": 16, "margin": 5}, {"size": 16, "margin": -1}, [16, 4], "x", 7):
        path.write_text(json.dumps(model | {"tiling": damaged}))
        with pytest.raises(InputError, match=r"model.json is damaged \(tiling"):
            prior_files.load(tmp_path / "tiny")
