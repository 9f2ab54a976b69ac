"""Properties that hold for whatever values: of operators, times, shapes, configurations and command lines."""

import dataclasses
import inspect
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

import fmdp.main  # noqa: F401  # defines the flags
from configs import digits
from fmdp import networks, operators
from fmdp.cli import flags as command_line
from fmdp.cli import restore as restore_command
from fmdp.cli.operator_args import parse_operator_arg
from fmdp.config.validation import validate_for_devices
from fmdp.errors import InputError
from fmdp.flow import interpolant, tiling
from fmdp.flow.average_field import lookahead_time
from fmdp.restoration.request import RULES, Request
from tests.support.generated import cases

KEYS = jax.random.split(jax.random.key(0), 4)
CASES = dict(operators=100, parameters=300, times=300, shapes=400, networks=100, configs=700, commands=300)
"""Generated cases by what they are of; `test_there_are_as_many_cases_as_promised` adds them up."""


def test_there_are_as_many_cases_as_promised():
    assert sum(CASES.values()) >= 2000


def one_line(error):
    return bool(str(error)) and "\n" not in str(error)


SHAPES = st.sampled_from([(4, 6, 1), (8, 8, 3), (12, 8, 3), (9, 5, 1)])
UNIT = st.floats(0, 1, exclude_max=True)
FITTING = {
    "denoising": {},
    "box_inpainting": dict(size=st.integers(1, 4)),
    "random_inpainting": dict(ratio=UNIT),
    "brush_inpainting": dict(strokes=st.integers(1, 2), width=st.floats(0.01, 1)),
    "gaussian_blur": dict(
        kernel_size=st.sampled_from([1, 3, 5]),
        std=st.floats(0.01, 9),
        boundary=st.sampled_from(["reflect", "circular"]),
    ),
    "motion_blur": dict(kernel_size=st.sampled_from([3, 5]), intensity=UNIT),
    "super_resolution": dict(factor=st.integers(1, 4)),
    "decimation": dict(factor=st.integers(1, 4)),
    "colorization": {},
    "jpeg": dict(quality=st.integers(1, 100)),
    "phase_retrieval": dict(oversampling=st.sampled_from([0.0, 1.0, 2.0])),
    "hdr": dict(scale=st.floats(0.1, 10)),
}


def test_every_operator_is_among_them():
    assert FITTING.keys() == operators.OPERATORS.keys()


@pytest.mark.slow
@cases(CASES["operators"])
@given(st.sampled_from(sorted(FITTING)), SHAPES, st.sampled_from(range(4)), st.integers(0, 2**31), st.data())
def test_operators_are_linear_have_adjoints_and_the_shapes_they_say(name, shape, key, seed, draw):
    parameters = draw.draw(st.fixed_dictionaries(FITTING[name]))
    try:
        H = operators.make(name, shape, KEYS[key], **parameters)
    except InputError as error:
        assert one_line(error)  # noqa: PT017
        return
    rng = np.random.default_rng(seed)
    x, z = (jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32) for _ in range(2))
    measured = H(x)
    assert measured.shape == H.output_shape
    assert jnp.isfinite(measured).all()
    y = jnp.asarray(rng.uniform(-1, 1, H.output_shape), jnp.float32)
    back = operators.adjoint(H, y, x)
    assert back.shape == shape
    if H.linear:
        scale = float(jnp.linalg.norm(measured) * jnp.linalg.norm(y)) + 1
        assert float(jnp.vdot(measured, y)) == pytest.approx(float(jnp.vdot(x, back)), abs=1e-5 * scale)
        np.testing.assert_allclose(H(2 * x - 3 * z), 2 * measured - 3 * H(z), atol=1e-5)


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 20), st.floats(), st.text(max_size=5),
    st.sampled_from([10**400, -(10**30), 2**31, 1e308, -0.0, "1", "\n", "reflect", 1 + 2j, b"x"]),
    st.lists(st.floats(-1, 1), max_size=3), st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), max_size=4),
)  # fmt: skip


@pytest.mark.slow
@cases(CASES["parameters"])
@given(st.sampled_from(sorted(operators.OPERATORS)), SHAPES, st.booleans(), st.data())
def test_any_parameters_make_an_operator_or_one_line(name, shape, keyed, draw):
    known = list(inspect.signature(operators.OPERATORS[name]).parameters)[2:]
    given_ = {
        key: draw.draw(FITTING[name].get(key, ANYTHING))
        for key in sorted(draw.draw(st.sets(st.sampled_from([*known, "x"]))))
    }
    if given_:
        given_[draw.draw(st.sampled_from(sorted(given_)))] = draw.draw(ANYTHING)
    try:
        H = operators.make(name, shape, KEYS[0] if keyed else None, **given_)
        assert jnp.isfinite(H(jnp.full(shape, 0.25))).all()
    except InputError as error:
        assert one_line(error)  # noqa: PT017
    try:
        Request(operator=name, parameters=given_)
    except InputError as error:
        assert one_line(error)  # noqa: PT017


@cases(CASES["times"])
@given(st.floats(0, 1e6), st.floats(0, 1e6), UNIT, UNIT, st.integers(0, 2**31))
def test_times_go_back_and_forth_and_stay_in_order(sigma, other, s, r, seed):
    low, high = sorted((sigma, other))
    times = interpolant.time_of_sigma(jnp.float32([low, high]))
    assert 0 < times[1] <= times[0] <= 1
    back = interpolant.sigma_of_time(times)
    np.testing.assert_allclose(back, np.float32([low, high]), rtol=1e-3 + 2e-7 * (1 + high), atol=1e-6)
    assert float(interpolant.time_of_sigma(sigma)) == pytest.approx(1 / (1 + sigma), rel=1e-6)
    t = lookahead_time(s, jnp.float32([0, r, 1]))
    eps = 3e-7
    assert t[0] == jnp.float32(s)
    assert s - eps <= t[1] <= 1 + eps
    assert float(t[2]) == pytest.approx(1, abs=eps)
    assert float(t[1]) == pytest.approx(s + r * (1 - s), abs=eps)
    if s < 0.999:
        assert float((t[1] - s) / (1 - s)) == pytest.approx(r, abs=eps / (1 - s))
    x0, x1 = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(seed).normal(size=(2, 1, 2, 1)))
    x = interpolant.interpolate(x0, x1, s)
    np.testing.assert_allclose(x, (1 - s) * x0 + s * x1, atol=1e-5)
    np.testing.assert_allclose(x + (1 - s) * interpolant.conditional_velocity(x0, x1), x1, atol=1e-5)


SIDE = st.integers(1, 40)


@cases(CASES["shapes"])
@given(SIDE, SIDE, st.integers(1, 16), st.integers(1, 16), st.sampled_from([1, 3]), st.integers(0, 2**31))
def test_tiles_cover_every_pixel_and_a_crop_undoes_a_pad(height, width, a, b, channels, seed):
    image, tile = (height, width, channels), (a, b, channels)
    wide = tiling.canvas_shape(image, tile)
    covered = np.zeros(wide[:2], int)
    for top, left in tiling.corners(wide, tile):
        part = covered[top : top + a, left : left + b]
        assert part.shape == (a, b)
        part += 1
    assert covered.min() >= 1
    assert covered.max() <= 9
    assert wide[2] == channels
    assert all(have >= want for have, want in zip(wide, image, strict=True))
    x = np.random.default_rng(seed).normal(size=image).astype(np.float32)
    sides = [((have - want) // 2, have - want - (have - want) // 2) for have, want in zip(wide, image, strict=True)]
    padded = np.pad(x, sides, mode="symmetric")  # what canvas.pad says; it compiles for every shape
    np.testing.assert_array_equal(jax.eval_shape(lambda x: tiling.pad(x, wide), x).shape, wide)
    top, left = (low for low, _ in sides[:2])
    np.testing.assert_array_equal(padded[top : top + height, left : left + width], x)
    assert jax.eval_shape(lambda x: tiling.crop(x, image), padded).shape == image


@pytest.mark.slow
@cases(CASES["networks"])
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.sampled_from([1, 3]))
def test_networks_give_the_shape_they_are_given_or_refuse_it(height, width, levels, channels):
    options = dict(channels=4, multipliers=(1,) * levels, blocks=0, attention=(), resolution=8)
    network = networks.make_backbone("unet", options)
    x = jax.ShapeDtypeStruct((height, width, channels), jnp.float32)
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        with pytest.raises(InputError, match=rf"{height}x{width} pixels: both must be divisible by {factor}; pad it"):
            jax.eval_shape(network.init, KEYS[0], x, 0.1, 0.5)
        return
    assert jax.eval_shape(lambda x: network.init_with_output(KEYS[0], x, 0.1, 0.5)[0], x).shape == x.shape


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


KEYS_OF_CONFIG = [key for key, _ in leaves(digits.get_config().to_dict())]


@cases(CASES["configs"])
@given(st.sampled_from(KEYS_OF_CONFIG), st.one_of(ANYTHING, st.tuples(ANYTHING), st.floats(-2, 2), st.integers(-1, 9)))
def test_any_value_of_any_key_is_accepted_or_refused_by_name(key, value):
    c = digits.get_config()
    *path, last = key.split(".")
    part = c
    for name in path:
        part = part[name]
    try:
        part[last] = value
    except OverflowError:  # ml_collections refuses it, and the command line says so
        return
    except (TypeError, ValueError):
        with part.ignore_type():
            part[last] = value
    try:
        validate_for_devices(c, 1)
    except InputError as error:
        assert one_line(error)  # noqa: PT017
        assert f"config.{'inverse.tasks' if key.startswith('inverse.tasks') else key}" in str(error)  # noqa: PT017
    else:
        assert isinstance(value, int | float | str | tuple | list) or value is None
        assert not isinstance(value, float) or math.isfinite(value)


def flag_values():
    """NAME=VALUE of any flag of ours and any key of the configuration, with values that fit and that do not."""
    names = ["checkpoint", "input", "output", "operator", "operator_arg", "degrade", "sigma", "lookahead"]
    names += [
        "already_degraded",
        "sigma_255",
        "budget_db",
        "sweep",
        "num_samples",
        "steps",
        "gain",
        "seed",
        "precision",
        "workdir",
        "mode",
        "distributed_timeout",
        "nonsense",
    ]
    names += [f"config.{key}" for key in (*KEYS_OF_CONFIG, "train", "nothing", "train.steps.x", "inverse.steps[0]")]
    values = st.one_of(
        st.sampled_from(
            ["", "0", "-1", "3", "1e9", "nan", "inf", "1e999", "9" * 5000, "(1,", "[]", "None", "true", "{"]
        ),
        st.sampled_from(
            ["digits", "hdr", "size=3", "factor=", "=", "std=NaN", "x=" + "[" * 5000, "restore", "~nobody/x"]
        ),
        st.text(st.characters(exclude_characters="\0"), max_size=8),
    )
    return st.tuples(st.sampled_from(names), values).map(lambda pair: f"--{pair[0]}={pair[1]}")


@pytest.mark.slow
@cases(CASES["commands"])
@given(st.lists(flag_values(), max_size=4), st.booleans())
def test_any_command_line_is_accepted_or_an_input_error(given_, configured):
    arguments = ["fmdp", *["--config=configs/digits.py"] * configured, *given_]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)  # where ml_collections looks for the keys of a configuration
        saved, parsed = flags.FLAGS.__dict__["__flags"].copy(), flags.FLAGS.is_parsed()
        values = {name: flags.FLAGS[name].__dict__.copy() for name in flags.FLAGS}
        try:
            command_line.parse_flags(arguments)
            if command_line.CONFIG.value is not None:
                validate_for_devices(command_line.CONFIG.value, 1)
            for text in restore_command.OPERATOR_ARG.value:
                parse_operator_arg(text)
            restore_command.request_from_flags()
        except InputError as error:
            assert str(error).strip()  # noqa: PT017
        finally:
            flags.FLAGS.__dict__["__flags"].clear()
            flags.FLAGS.__dict__["__flags"].update(saved)
            for name, state in values.items():
                flags.FLAGS[name].__dict__.update(state)
            if not parsed:
                flags.FLAGS.unparse_flags()


def test_every_field_of_a_request_is_checked():
    """A reminder: whoever adds a field to Request says among its rules, or in __post_init__, what it may be."""
    names = {field.name for field in dataclasses.fields(Request)}
    assert names == {rule[0] for rule in RULES} | {"operator", "parameters", "degraded"}
