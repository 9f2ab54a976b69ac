"""Fields, operators, solvers and frontiers, given numbers of any type and layout: the right result, or one line."""

import contextlib
import itertools
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fmdp
from fmdp import frontier, operators, solvers
from fmdp.exact import Gaussian
from fmdp.flow.average_field import lookahead_time, sample
from fmdp.flow.interpolant import time_of_sigma
from fmdp.networks import MLP
from fmdp.operators.noise import GaussianNoise, Observation, observe
from fmdp.pretrained.prior import PriorMetadata
from tests.support.array_forms import (
    CASES,
    FORM,
    FORMS,
    RANGES,
    SEED,
    SIGNED,
    SPOIL,
    SPOILS,
    in_type,
    linear,
    refused,
    without_type_checks,
)
from tests.support.exact_priors import PRIOR
from tests.support.generated import cases

KEY = jax.random.key(0)
X64 = st.sampled_from([False, False, True])
EIGHTHS, KIND = st.integers(0, 8), st.sampled_from(SIGNED)


@pytest.fixture(autouse=True, scope="module")
def _without_type_checks():
    with without_type_checks():
        yield


def tiny_prior():
    network = MLP(width=8, blocks=1)
    params = network.init(KEY, jnp.zeros((8, 8, 1)), 0.0, 0.0)["params"]
    leaves, tree = jax.tree.flatten(params)
    drawn = [
        jax.random.normal(key, x.shape) / 4 for key, x in zip(jax.random.split(KEY, len(leaves)), leaves, strict=True)
    ]
    return fmdp.Prior(
        params=jax.tree.unflatten(tree, drawn), network=network, image_shape=(8, 8, 1), about=PriorMetadata()
    )


TINY = tiny_prior()
TIME_KINDS = ["float16", "bfloat16", "float32", ">f4", "float64", "longdouble"]
NO_TIMES = [(0.5, 0.25), (np.nan, 1.0), ("a", "b"), (0.5j, 1.0), (None, 1.0), (-1, 1), (0.5, 2), ([0.1, 0.2, 0.3], 1.0)]


@cases(CASES["fields"])
@given(SEED, KIND, FORM, SPOIL, st.integers(0, 8), st.integers(0, 8), st.sampled_from(TIME_KINDS), X64)
def test_points_and_times_of_any_type(seed, kind, form, spoil, a, b, time_kind, x64):
    values = in_type(np.random.default_rng(seed).integers(-1, 2, (2, 8, 8, 1)), kind)
    s, t = sorted((a / 8, b / 8))
    times = [in_type(np.full(seed % 3, time) if seed % 3 == 2 else time, time_kind) for time in (s, t)]
    times = [time.tolist() if seed % 2 else FORMS["jax"](time) for time in times]
    one = jnp.asarray(values, jnp.float32)
    expected = TINY(one, s, t)
    with jax.enable_x64(x64):
        if spoil not in ("", "nan", "infinite"):  # which training and tests of fields pass on
            wrong = SPOILS[spoil](values)
            assert refused(lambda: fmdp.denoise(PRIOR, wrong, s, t))
            assert refused(lambda: TINY(wrong, s, t))
            return
        given_ = FORMS[form](values)
        np.testing.assert_allclose(fmdp.denoise(PRIOR, given_, *times), linear(s, t) * np.float64(values), atol=2e-5)
        # Arrays of JAX of 16 bits keep their type, as networks in them need it.
        np.testing.assert_allclose(TINY(given_, *times), expected, atol=2e-2 if "16" in kind else 1e-5)
        np.testing.assert_allclose(lookahead_time(*times), s + t * (1 - s), atol=1e-6)
        np.testing.assert_allclose(time_of_sigma(times[0]), 1 / (1 + s), atol=1e-6)
    wrong_times = NO_TIMES[seed % len(NO_TIMES)]
    assert refused(lambda: fmdp.denoise(PRIOR, given_, *wrong_times))
    for shape in ((8, 8), (0, 8, 8, 1), (8, 7, 1), (8, 8, 3)):
        assert refused(lambda shape=shape: fmdp.denoise(TINY, np.zeros(shape), 0.0, 1.0))
        assert shape == (8, 8, 3) or refused(lambda shape=shape: fmdp.denoise(PRIOR, np.zeros(shape), 0.0, 1.0))
    keys, shapes, steps = [0, None, "a", jax.random.split(KEY)], [(8, 8), 8, (8.0, 8, 1), (-8, 8, 1)], [0, 2.0, None]
    assert refused(lambda: sample(PRIOR, keys[seed % 4], (8, 8, 1)))
    assert refused(lambda: sample(PRIOR, KEY, shapes[seed % 4]))
    assert refused(lambda: sample(PRIOR, KEY, (8, 8, 1), steps[seed % 3]))


OPERATORS = dict(
    denoising={}, box_inpainting=dict(size=3), random_inpainting=dict(ratio=0.5), brush_inpainting={},
    gaussian_blur=dict(kernel_size=3, std=1), motion_blur=dict(kernel_size=5), super_resolution=dict(factor=2),
    decimation=dict(factor=2), colorization={}, jpeg={}, phase_retrieval={}, hdr={},
)  # fmt: skip
NO_IMAGE_SHAPES = [8, (8, 8), (8.0, 8, 1), (8, 8, 0), "abc", None, (8, 8, 1, 1), ("a", 8, 1), (8, 8, math.nan)]


@cache
def canonical(name):
    return operators.make(name, (8, 8, 3), KEY, **OPERATORS[name])


@pytest.mark.slow
@cases(CASES["operators"])
@given(
    SEED, st.sampled_from(sorted(OPERATORS)), st.sampled_from(SIGNED), st.sampled_from(sorted(RANGES)), FORM, SPOIL, X64
)
def test_operators_take_any_type(seed, name, kind, parameter_kind, form, spoil, x64):
    H, rng = canonical(name), np.random.default_rng(seed)
    x, y = rng.integers(-1, 2, H.image_shape), rng.integers(-1, 2, H.output_shape)
    measured = H(jnp.asarray(x, jnp.float32))
    back = operators.adjoint(H, jnp.asarray(y, jnp.float32), jnp.asarray(x, jnp.float32))
    x, y = in_type(x, kind), in_type(y, kind)
    parameters = {
        key: in_type(value, parameter_kind)[()] if (value == 0.5) <= (parameter_kind in TIME_KINDS) else value
        for key, value in OPERATORS[name].items()
        if parameter_kind != "bool" and (key in ("std", "ratio") or parameter_kind not in TIME_KINDS)
    }
    # In 64 bits, other operators differ where they round or divide by nearly zero.
    with jax.enable_x64(True) if x64 and H.linear else contextlib.nullcontext():
        H = operators.make(name, list(H.image_shape), KEY, **OPERATORS[name] | parameters)
        np.testing.assert_allclose(H(FORMS[form](x)), measured, atol=1e-5)
        np.testing.assert_allclose(operators.adjoint(H, FORMS[form](y), FORMS[form](x)), back, atol=1e-5)
        observed = observe(H, GaussianNoise(sigma=in_type(0, kind)), FORMS[form](x), KEY)
    np.testing.assert_allclose(observed.y, measured, atol=1e-5)
    H = canonical(name)
    if spoil not in ("", "nan", "infinite"):
        assert refused(lambda: H(SPOILS[spoil](x)))
        assert refused(lambda: operators.adjoint(H, SPOILS[spoil](y), x))
        assert refused(lambda: observe(H, GaussianNoise(sigma=0.1), SPOILS[spoil](x), KEY))
    assert refused(lambda: H(x[:-1]))
    assert refused(lambda: operators.adjoint(H, y[None], x))
    shape = NO_IMAGE_SHAPES[seed % len(NO_IMAGE_SHAPES)]
    assert refused(lambda: operators.make(name, shape, KEY, **OPERATORS[name]))
    assert refused(lambda: operators.from_function(lambda x: x, shape, linear=True))
    assert refused(lambda: operators.make("random_inpainting", (8, 8, 1), [0, None, "a"][seed % 3], ratio=0.5))


MEASURED = np.random.default_rng(3).integers(-1, 2, (8, 8, 1))
BOX = operators.make("box_inpainting", (8, 8, 1), size=3)
SOLVERS = dict(
    pnp=dict(steps=2, gain=0.25), dps=dict(steps=2, eta=1), flower=dict(steps=2), ot_ode=dict(steps=2),
    flow_priors=dict(steps=2, lam=2),
)  # fmt: skip
NO_OPTIONS = [
    ("pnp", dict(steps=2.0)), ("pnp", dict(steps=None)), ("pnp", dict(gain=[1.0])), ("pnp", dict(lookahead=1j)),
    ("pnp", dict(noise_draws=2.5)), ("pnp", dict(times="ab")), ("pnp", dict(noise=np.zeros((2, 8, 8)))),
    ("dps", dict(eta=None)), ("dps", dict(noise=np.zeros((4, 8, 1)))), ("flower", dict(spread=math.nan)),
    ("ot_ode", dict(noise=np.zeros((8, 8)))), ("flow_priors", dict(inner=1.5)), ("d_flow", dict(points="3")),
]  # fmt: skip


def solved(name, y, sigma, key=KEY, **options):
    observation = Observation(y=y, operator=BOX, noise=GaussianNoise(sigma=sigma))
    return solvers.make(name, **SOLVERS.get(name, {}) | options)(PRIOR, observation, key)[0]


@cache
def canonically_solved(name):
    return solved(name, jnp.asarray(MEASURED, jnp.float32), 0.25)


@pytest.mark.slow
@cases(CASES["solvers"])
@given(SEED, st.sampled_from(sorted(SOLVERS)), KIND, FORM, SPOIL, st.sampled_from(TIME_KINDS))
def test_solvers_take_any_type(seed, name, kind, form, spoil, sigma_kind):
    y, sigma = in_type(MEASURED, kind), in_type(np.full((8, 8, 1), 0.25), sigma_kind)
    sigma = FORMS[form](sigma) if seed % 2 else sigma.flat[0]
    if spoil and spoil not in ("nan", "infinite"):
        assert refused(lambda: solved(name, SPOILS[spoil](y), 0.25))
    assert spoil == "" or refused(lambda: solved(name, y, SPOILS[spoil](in_type(np.full((8, 8, 1), 0.25), "float32"))))
    counted = {"steps": np.uint8(2)} if seed % 3 else {}
    np.testing.assert_allclose(solved(name, FORMS[form](y), sigma, **counted), canonically_solved(name), atol=1e-5)
    other, options = NO_OPTIONS[seed % len(NO_OPTIONS)]
    assert refused(lambda: solved(other, MEASURED, 0.25, **options))
    assert refused(lambda: solved(name, MEASURED, 0.25, key=seed))


@cases(CASES["exact"])
@given(SEED, KIND, FORM, SPOIL, EIGHTHS.filter(lambda k: k < 8), st.sampled_from(TIME_KINDS))
def test_frontiers_and_exact_targets_take_any_type(seed, kind, form, spoil, eighths, time_kind):
    rng, s = np.random.default_rng(seed), eighths / 8
    time = in_type(s, time_kind)[()]
    mean, a, b = (in_type(rng.integers(-1, 2, shape), kind) for shape in ((2, 2, 1), (4, 2), (4, 2)))
    if spoil:
        assert refused(lambda: Gaussian(SPOILS[spoil](mean), 0.25))
        assert refused(lambda: frontier.assignment_squared_w2(SPOILS[spoil](a), b))
        assert refused(lambda: frontier.gaussian_frontier(Gaussian(mean, 0.25), 0.5).distortion(SPOILS[spoil](a)))
        many = in_type(rng.integers(-1, 2, (60, 2, 2, 1)), kind)
        assert refused(lambda: frontier.bracket(SPOILS[spoil](many[None]), many, many, Gaussian(mean, 1.0), (0.1, 0.0)))
        return
    target = Gaussian(FORMS[form](mean), in_type(0.25, time_kind))
    x = jnp.asarray(rng.normal(size=(2, 2, 1)), jnp.float32)
    expected = np.float64(mean) + linear(s, 1.0) * (np.float64(x) - s * np.float64(mean))
    restored = fmdp.denoise(target.average_field, FORMS[form](np.asarray(x)), time, 1)
    np.testing.assert_allclose(restored, expected, atol=1e-5)
    best = frontier.gaussian_frontier(target, time)
    mmse = 0.25 * (1 - s) ** 2 / ((1 - s) ** 2 + s**2 / 4)
    assert best.mmse == pytest.approx(mmse, abs=1e-6)
    star = math.sqrt(float(best.squared_p_star.low))
    perception = in_type([0, 1], kind)
    for bound in best.distortion(FORMS[form](perception))[:2]:
        np.testing.assert_allclose(bound, mmse + np.maximum(star - np.array([0, 1]), 0) ** 2, atol=1e-6)
    np.testing.assert_allclose(
        frontier.gaussian_points(target, time, FORMS["lists"](in_type([s, 1], time_kind))).mse[0], mmse, atol=1e-6
    )
    pairs = [np.square(np.float64(a)[list(p)] - np.float64(b)).mean() for p in itertools.permutations(range(4))]
    assert frontier.assignment_squared_w2(FORMS[form](a), FORMS[form](b)) == pytest.approx(min(pairs), abs=1e-6)
    grid = frontier.even_lookaheads(time, np.uint8(3), in_type(0.25, time_kind))
    np.testing.assert_allclose(grid, frontier.even_lookaheads(s, 3, 0.25), atol=1e-6)
    gaps = np.diff([linear(s, t) for t in grid])
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)  # evenly spaced, by what the grid promises
    nothing = [(1.0, 3), (0.5, 1), (0.5, 2.5), (None, 3), ([0.5, 0.5], 3), ("a", 3), (0.5, None)][seed % 7]
    assert refused(lambda: frontier.even_lookaheads(*nothing))
    assert refused(lambda: frontier.even_lookaheads(0.5, 3, [0, -1, math.nan, math.inf, None, 1e30][seed % 6]))
    assert refused(lambda: frontier.gaussian_frontier(target, [None, "a", [0.5], 2, math.nan][seed % 5]))
    assert refused(lambda: frontier.gaussian_frontier(target, 0.5).distortion([-1, 0]))
    assert refused(lambda: frontier.assignment_squared_w2(a, b[: seed % 4]))
    assert refused(lambda: frontier.assignment_curve(a[None], a[:2], a, a, b))
    assert refused(lambda: target.average_field(jnp.zeros((3, 2, 1)), 0.5, 1.0))
