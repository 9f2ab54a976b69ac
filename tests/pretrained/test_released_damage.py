"""Released U-Nets with arrays missing, renamed, of other shapes or kinds: each is loaded or ends in one line."""

import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from fmdp.errors import InputError
from fmdp.pretrained import prior as prior_files
from tests.support.bad_input import at_most, one_line
from tests.support.released import released

CASES = 80
SHAPES = [(0,), (1,), (2, 3), (5, 5, 3, 3), (1, 1, 1, 1), (0, 4, 3, 3), (), (70000, 1), (1,) * 9]
SCALES = ["99999999x99999999", "0x0", "16x16", "8x9"]


def damage(arrays, rng):
    """One of them gone, of another shape, kind or scale, or under another name; and perhaps a filter that is none."""
    arrays = dict(arrays)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(arrays))
        array = arrays.pop(name)
        match rng.randrange(6):
            case 0:
                pass
            case 1:
                arrays[name] = np.zeros(rng.choice(SHAPES), np.float32)
            case 2:
                arrays[name.replace("8x8", rng.choice(SCALES))] = array
            case 3:
                arrays[name] = array.astype(rng.choice([np.int32, np.bool_, np.float16, np.float64]))
            case 4:
                arrays[name] = array * np.float32(rng.choice([1e30, 0]))
            case 5:
                arrays[name.replace("block0", rng.choice(["block1", "block99", "block"]))] = array
    if rng.random() < 0.2:
        shape = rng.choice([(1, 1, 4, 4), (1, 1, 0, 4), (2, 2), (1, 1, 1, 1)])
        arrays["enc.4x4_down.conv0.resample_filter"] = np.full(shape, rng.choice([0, 1, np.nan]), np.float32)
    return arrays


@pytest.mark.slow
def test_damaged_networks_are_loaded_or_refused(tmp_path):
    arrays, rng, loaded = released(), random.Random(0), 0
    path = tmp_path / "x.safetensors"
    save_file(arrays, path)
    assert prior_files.from_file(path, "flow_map").image_shape == (8, 8, 1)
    for _ in range(CASES):
        save_file({name: np.ascontiguousarray(array) for name, array in damage(arrays, rng).items()}, path)
        try:
            with at_most(20):
                assert prior_files.from_file(path, "flow_map").image_shape[2] > 0
            loaded += 1
        except InputError as error:
            assert one_line(str(error))  # noqa: PT017
    assert 0 < loaded < CASES / 2


def test_a_level_whose_width_is_no_multiple_is_named(tmp_path):
    name, path = "enc.4x4_block0.norm1.weight", tmp_path / "x.safetensors"
    for width in (1, 9):  # of four channels
        save_file(released() | {name: np.ones(width, np.float32)}, path)
        with pytest.raises(InputError, match=rf"conv.weight has 4 channels; \[4, {width}\] must be multiples"):
            prior_files.from_file(path, "flow_map")
