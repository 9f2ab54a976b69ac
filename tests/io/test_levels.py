"""Which numbers are black and white: stated, told by the numbers, or refused because they could be mistaken."""

import numpy as np
import pytest

from fmdp.errors import InputError
from fmdp.io import levels

pytestmark = pytest.mark.device


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64, ">u2"])
@pytest.mark.parametrize("black_white", [(0, 255), (0, 1), (-1, 1), (10, 110)])
def test_black_is_minus_one_and_white_is_one(kind, black_white):
    black, white = black_white
    if black < 0 and np.dtype(kind).kind == "u":
        return
    found = levels.to_unit(np.array([black, white], kind), black_white)
    np.testing.assert_array_equal(found, np.float32([-1, 1]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(levels.to_bytes(np.array([black, white], kind), black_white), [0, 255])


def test_masked_values_are_told_from_ragged_lists():
    with pytest.raises(InputError, match=r"^1 of 2 values are masked: fill them"):
        levels.as_numpy(np.ma.masked_array([1, 2], [True, False]))
    with pytest.raises(InputError, match=r"^these lists are not an array"):
        levels.as_numpy([[1, 2], [3]])


def test_bytes_become_floats_and_bytes_again_by_the_same_numbers():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    unit = levels.to_float(every)
    np.testing.assert_array_equal(unit, every.astype(np.float32) / np.float32(127.5) - 1)
    np.testing.assert_array_equal(levels.to_unit(every, levels.BYTES), unit)
    np.testing.assert_array_equal(levels.to_bytes(unit, levels.UNIT), every)
    np.testing.assert_array_equal(levels.to_uint8(unit), every[..., 0])
    np.testing.assert_array_equal(levels.to_uint8(np.repeat(unit, 3, -1)), np.repeat(every, 3, -1))
    np.testing.assert_array_equal(levels.to_uint8(np.float32([[[-1.5], [1.5]]])), [[0, 255]])
    assert levels.to_float(unit) is unit


def test_every_level_of_16_bits_keeps_its_place():
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_allclose(levels.to_unit(every, (0, 65535)), np.linspace(-1, 1, 65536), atol=1.2e-7)
    np.testing.assert_array_equal(levels.to_bytes(every, (0, 65535)), np.round(every / 257))
    beyond = levels.to_bytes(np.float32([-0.5, 1.5, 0.25]), (0, 1))
    np.testing.assert_array_equal(beyond, [0, 255, 64])
    wide = np.int32([-1000, 0, 2**24 + 1])  # float32 cannot hold the last
    np.testing.assert_allclose(levels.to_unit(wide, (2**24 - 1, 2**24 + 3))[2], 0, atol=1e-7)


@pytest.mark.parametrize("kind", [np.uint16, ">u2", np.int16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize(
    ("high", "white"), [(2, 255), (255, 255), (256, 1023), (4000, 4095), (4096, 16383), (16384, 65535)]
)
def test_white_of_integers_is_the_end_of_the_bits_they_fit_into(kind, high, white):
    taken = levels.find_range(np.array([0, high], kind), None)
    name = str(np.dtype(kind).newbyteorder("="))
    white = min(white, 32767) if name == "int16" else white
    said = f"values from 0 to {high} of {name}: white is taken as {white}"
    assert taken == ((0, white), "" if (name, white) == ("uint16", 65535) else said)


def test_what_cannot_be_mistaken_needs_no_statement():
    for values, wanted in [
        (np.uint8([0, 7]), (0, 255)),
        (np.uint8([0, 0]), (0, 255)),
        (np.array([True, False]), (0, 1)),
        (np.float32([-1, 1]), (-1, 1)),
        (np.float64([-0.9, 0.2]), (-1, 1)),
        (np.uint16([0, 0]), (0, 65535)),
    ]:
        assert levels.find_range(values, None) == (wanted, "")
    assert levels.find_range(np.float32([0, 0.5]), (0, 2)) == ((0, 2), "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32([0, 1]), "values from 0 to 1 use only the upper half of [-1, 1]: state the values of"),
        (np.float32([0.2, 0.9]), "such as (0, 1)"),
        (np.float64([0, 255]), "values from 0 to 255 are not floats from -1 to 1: state the values of"),
        (np.float64([0, 200]), "such as (0, 255)"),
        (np.float64([0, 3012.5]), "such as (0, 3012.5)"),
        (np.float32([-30, 20]), "values from -30 to 20 are not floats"),
        (np.uint8([0, 1]), "integers of 0 and 1 alone"),
        (np.int64([0, 1]), "such as (0, 1)"),
        (np.int16([-1024, 3000]), "integers from -1024 to 3000 are not of 8 to 16 bits: state"),
        (np.int32([0, 65536]), "integers from 0 to 65536"),
    ],
)  # fmt: skip
def test_what_could_be_mistaken_is_refused(values, message):
    with pytest.raises(InputError) as refused:
        levels.find_range(values, None)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_floats_from_0_to_1_with_noise_are_told_of():
    """A picture from 0 to 1 with noise has a few values below 0; one of [-1, 1] has many, or deep ones."""
    rng = np.random.default_rng(0)
    unit = rng.uniform(0, 1, 10_000) + 0.05 * rng.standard_normal(10_000)
    taken = levels.find_range(unit, None)
    assert taken.range == (-1, 1)
    assert "few below 0: black is taken as -1 and white as 1; state" in taken.said
    assert levels.find_range(2 * unit - 1, None).said == ""
    with pytest.raises(InputError, match="few below 0, may begin at 0 or at -1"):
        levels.find_range(unit, None, in_file=True)


def test_floats_in_a_picture_file_are_from_0_to_1_by_custom():
    said = "values from 0 to 0.5: black is taken as 0 and white as 1"
    assert levels.find_range(np.float32([0, 0.5]), None, in_file=True) == ((0, 1), said)
    assert levels.find_range(np.float32([-1, 0.5]), None, in_file=True).range == (-1, 1)
    with pytest.raises(InputError, match="such as \\(0, 255\\)"):
        levels.find_range(np.float32([0, 180]), None, in_file=True)


@pytest.mark.parametrize("value", [(1, 0), (0, 0), (0,), (0, 1, 2), (0, np.nan), (0, np.inf), ("0", "1"), 5, None, ()])
def test_ranges_that_are_none(value):
    assert "must be two numbers, the value of black and the greater value of white" in levels.range_fault(value)


def test_ranges_that_are_some():
    assert not any(map(levels.range_fault, [(0, 1), [0, 255], (-1000, 3000.5), (np.float32(0), np.int64(7))]))


def test_numbers_that_are_not_finite_are_counted_and_placed():
    values = np.zeros((2, 3, 4), np.float32)
    levels.require_numbers(values)
    values[1, 2, 0], values[1, 0, 3], values[0, 1, 2] = np.nan, np.nan, -np.inf
    with pytest.raises(InputError) as refused:
        levels.require_numbers(values)
    told = "it holds 2 NaN and 1 infinite values among 24 values, the first at [0, 1, 2]: leave them out, or replace"
    assert told in str(refused.value)
    for other, message in [
        (np.array(["x"]), "give real numbers"),
        (1j * np.ones(2), "complex128"),
        (np.zeros((0, 3)), "empty"),
    ]:
        with pytest.raises(InputError, match=message):
            levels.require_numbers(other)


def test_axes_in_another_order_are_recognised():
    for shape, remedy in [
        ((60, 3, 64, 64), "np.moveaxis(x, 1, -1)"),
        ((1, 28, 28), "np.moveaxis(x, 0, -1)"),
        ((64, 64, 4), "x[..., :3]"),
        ((9, 64, 64, 2), "x[..., :1]"),
        ((64, 64), ""),
        ((40, 64, 64), ""),
    ]:
        assert remedy in levels.layout_remedy(shape)
        assert bool(remedy) == bool(levels.layout_remedy(shape))
