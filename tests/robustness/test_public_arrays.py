"""Pictures, arrays and requests in whatever type, range, shape and layout: the right result, or one clear line."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fmdp
from fmdp.data.arrays import as_training_images
from fmdp.data.npz import read_npz
from fmdp.io import levels
from tests.support.array_forms import (
    CASES,
    FORM,
    FORMS,
    RANGES,
    SEED,
    SPOIL,
    SPOILS,
    in_type,
    linear,
    numbers,
    outcome,
    pixels,
    refused,
    without_type_checks,
)
from tests.support.exact_priors import COLOUR, PRIOR
from tests.support.generated import EXPLORING, cases

SHAPES = [(8, 8), (8, 8, 1), (8, 8, 3), (5, 7), (1, 1, 1), (12, 8, 1)]
NO_SHAPES = [(8,), (8, 8, 2), (8, 8, 4), (3, 8, 8), (1, 8, 8), (0, 8), (8, 0, 1), (2, 8, 8), (1, 1, 8, 8, 1)]
SHAPE = st.sampled_from(SHAPES * 3 + NO_SHAPES)
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(autouse=True, scope="module")
def _without_type_checks():
    with without_type_checks():
        yield


def test_there_are_as_many_cases_as_promised():
    assert sum(CASES.values()) <= 100
    assert EXPLORING * sum(CASES.values()) >= 1000


def unit(values, stated):
    """Pixels on the scale from -1 to 1, by the definition of a range, in float64."""
    return (np.asarray(values, np.float64) - stated[0]) / (stated[1] - stated[0]) * 2 - 1


def check_images(found, values, stated, channels):
    expected = unit(values, stated)
    expected = expected[..., None] if expected.ndim == 3 else expected
    gray = channels == 1 and expected.shape[-1] == 3
    assert found.dtype == np.float32
    bytes_ = gray and values.dtype == np.uint8  # whose luma is one of bytes, as Pillow has it
    np.testing.assert_allclose(found, expected @ LUMA[:, None] if gray else expected, atol=3e-6 + 0.51 / 127.5 * bytes_)


@cases(CASES["levels"])
@given(SEED, st.sampled_from(SHAPES), numbers(), FORM, SPOIL)
def test_levels(seed, shape, kind_and_range, form, spoil):
    kind, stated = kind_and_range
    values = pixels(seed, shape, kind, stated)
    if spoil:
        assert refused(lambda: levels.require_numbers(levels.as_numpy(SPOILS[spoil](values))))
        return
    found = levels.as_numpy(FORMS[form](values))
    levels.require_numbers(found)
    assert not levels.range_fault(stated)
    np.testing.assert_allclose(levels.to_unit(found, stated), unit(values, stated), atol=3e-6)
    np.testing.assert_allclose(levels.to_bytes(found, stated), (unit(values, stated) + 1) * 127.5, atol=0.501)
    guess = outcome(lambda: levels.find_range(found, None))
    assert isinstance(guess, Exception) or np.isfinite(levels.to_unit(found, guess.range)).all()


@cases(CASES["npz"])
@given(SEED, SHAPE, numbers(), st.sampled_from([1, 3]), SPOIL)
def test_npz_files(tmp_path_factory, seed, shape, kind_and_range, channels, spoil):
    kind, stated = kind_and_range
    kind = "float32" if kind == "bfloat16" else kind  # which the format does not have
    values = pixels(seed, (4, *shape), kind, stated)
    given_ = SPOILS[spoil](values) if spoil not in ("", "masked") else values
    path = tmp_path_factory.getbasetemp() / "generated.npz"
    np.savez(path, images=given_)
    if shape in NO_SHAPES or given_ is not values:
        assert refused(lambda: read_npz(path, stated, channels))
    else:
        check_images(read_npz(path, stated, channels).train.images[:], values, stated, channels)


@cases(CASES["training"])
@given(SEED, SHAPE, numbers(), FORM, st.sampled_from([1, 3]), SPOIL)
def test_training_arrays(seed, shape, kind_and_range, form, channels, spoil):
    kind, stated = kind_and_range
    values = pixels(seed, (4, *shape), kind, stated)
    given_ = SPOILS[spoil](values) if spoil in ("complex", "text", "dates", "objects", "masked") else None
    call = lambda: as_training_images(FORMS[form](values) if given_ is None else given_, None, stated, channels)  # noqa: E731
    if shape == (2, 8, 8):  # of which nothing tells whether they are channels
        outcome(call)
    elif shape in NO_SHAPES or given_ is not None:
        assert refused(call)
    else:
        check_images(call()[0][:], values, stated, channels)
        black, white = stated
        assert refused(lambda: as_training_images(values, None, (black - 2 * (white - black), black - 1), channels))


@pytest.mark.slow
@cases(CASES["restore"])
@given(SEED, SHAPE, numbers(), FORM, SPOIL, st.booleans(), st.booleans())
def test_the_same_picture_gives_the_same_restoration(seed, shape, kind_and_range, form, spoil, batch, colour):
    kind, stated = kind_and_range
    values = pixels(seed, (2, *shape) if batch and len(shape) == 3 else shape, kind, stated)
    prior, sigma = COLOUR if colour else PRIOR, 0.5
    request = fmdp.Request(sigma=sigma, lookaheads=(0.0, 1.0), range=stated)
    if spoil or shape in NO_SHAPES:
        assert refused(lambda: fmdp.restore(prior, SPOILS[spoil](values) if spoil else FORMS[form](values), request))
        return
    found = fmdp.restore(prior, FORMS[form](values), request)
    clean = unit(values, stated)
    clean = clean[..., None] if values.ndim == 2 else clean
    to_gray = clean.shape[-1] == 3 and not colour
    clean = clean @ LUMA[:, None] if to_gray else np.broadcast_to(clean, (*clean.shape[:-1], 3 if colour else 1))
    sigma *= np.linalg.norm(LUMA) if to_gray else 1  # the noise of the channels was averaged with them
    np.testing.assert_allclose(found.measured, clean, atol=5e-6)
    for i, r in enumerate((0, 1)):
        s = 1 / (1 + sigma)
        expected = linear(s, s + r * (1 - s)) * s * clean
        np.testing.assert_allclose(found.images[..., i, 0, :, :, :], expected, atol=2e-5)


PICTURE = np.random.default_rng(2).uniform(-1, 1, (8, 8, 1)).astype(np.float32)
KERNEL = np.array([[0, 4, 0], [2, 4, 4], [0, 2, 0]]) / 16  # exact in every type
GIVEN = dict(mask=(np.random.default_rng(1).random((8, 8)) < 0.6).astype(float), psf=KERNEL, kernel=KERNEL)


@cache
def restored_with(name, given_=None):
    values = GIVEN[name] if given_ is None else given_()
    operator = "brush_inpainting" if name == "mask" else "motion_blur"
    parameters = {name: values} | ({} if name == "mask" else {"normalize": True})
    return fmdp.restore(PRIOR, PICTURE, fmdp.Request(operator=operator, parameters=parameters, steps=3)).images


@pytest.mark.slow
@cases(CASES["arrays"])
@given(st.sampled_from(sorted(GIVEN)), st.sampled_from(sorted(RANGES)), FORM, SPOIL, st.booleans())
def test_masks_and_kernels_of_any_type(name, kind, form, spoil, full):
    values = GIVEN[name] if name == "mask" else 16 * GIVEN[name]
    if kind == "bool" and name != "mask":
        kind = "uint8"
    values = in_type(values * (255 if full and name == "mask" and kind not in ("bool", "int8") else 1), kind)
    if spoil and spoil != "nothing":  # None stands for what is drawn at random, or for another parameter
        assert refused(lambda: restored_with(name, lambda: SPOILS[spoil](values)))
    else:
        found = restored_with(name, lambda: FORMS[form](values[..., None] if full and name == "mask" else values))
        np.testing.assert_allclose(found, restored_with(name), atol=1e-6)
        wrong = values[:-1] if name == "mask" else values[None]
        assert refused(lambda: restored_with(name, lambda: FORMS[form](wrong)))
    restored_with.cache_clear()


FITTING = dict(
    sigma=(0.5, 1, 0), gain=(0.5, 1), steps=(2, 7), seed=(0, 3), num_samples=(2,), tile=(8,), memory_gb=(0.5, 2),
    degraded=(True, False),
)  # fmt: skip
NO_VALUES = (np.nan, 1j, "x", b"x", [], {}, np.ones(2), np.inf, 10**400)


@cases(CASES["requests"])
@given(st.sampled_from(sorted(FITTING)), st.data(), st.sampled_from(sorted(RANGES)))
def test_numbers_of_a_request(name, draw, kind):
    value = draw.draw(st.sampled_from(FITTING[name]))
    typed = in_type(value, "bool" if name == "degraded" else kind)
    options = dict(operator="hdr", degraded=False) | {name: typed if draw.draw(st.booleans()) else typed[()]}
    request = outcome(lambda: fmdp.Request(**options))
    assert isinstance(request, Exception) or getattr(request, name) == value or kind in ("bool",) or value == 0.5
    bad = draw.draw(st.sampled_from(NO_VALUES))
    if name != "seed":
        assert refused(lambda: fmdp.Request(**options | {name: -1}))
    assert refused(lambda: fmdp.Request(**options | {name: bad}))
    black, white = draw.draw(st.sampled_from(RANGES[kind]))
    stated = tuple(in_type([black, white], kind))
    assert fmdp.Request(range=(float(black), float(white))).range == (black, white)
    taken = levels.to_unit(np.array([black, white]), stated) if kind != "bool" else np.array([-1, 1])
    np.testing.assert_allclose(taken, [-1, 1], atol=1e-6)
