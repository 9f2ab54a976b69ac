"""What people bring to the solvers: measurements of any type, noise levels as maps, and none."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from fmdp import operators
from fmdp.errors import InputError
from fmdp.exact import Gaussian
from fmdp.flow.dtypes import as_float, field_dtype
from fmdp.operators.noise import SMALLEST_SIGMA, GaussianNoise, LaplaceNoise, Observation, observe
from fmdp.solvers import SOLVERS

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("cheap_compilation")]

KEY = jax.random.key(0)
SHAPE = (4, 3, 1)
SIZE = 12
MEAN = 0.3 * np.random.default_rng(0).normal(size=SHAPE)
TARGET = Gaussian(np.float32(MEAN), np.float32(0.5))
KERNEL = np.array([[0.1, 0.2, 0.0], [0.3, 0.3, 0.0], [0.1, 0.0, 0.0]])
BLUR = operators.make("motion_blur", SHAPE, kernel=KERNEL)
SHARP = operators.make("motion_blur", SHAPE, kernel=np.array([[0, 0.2, 0], [0.1, 0.6, 0.1], [0, 0, 0]]))
MASK = operators.make("box_inpainting", SHAPE, size=2)
MAP = np.linspace(0.1, 0.6, SIZE).reshape(SHAPE)
OPTIONS = dict(
    pnp=dict(steps=2, gain=0.2),
    pnp_flow=dict(steps=2, gain=0.2),
    ot_ode=dict(steps=2),
    flow_priors=dict(steps=2, lam=2.0),
    d_flow=dict(steps=2, points=3),
    dps=dict(steps=2, eta=1.0),
    flower=dict(steps=2),
)


def field32(one, x, s, t):
    """A field that works in float32, as a network does, because it holds such an array."""
    return one * TARGET.average_field(x, s, t)


FIELD = Partial(field32, jnp.float32(1))


def run(name, y, sigma=0.3, operator=BLUR, field=FIELD, **options):
    observation = Observation(y=y, operator=operator, noise=GaussianNoise(sigma=sigma))
    return jax.jit(lambda: SOLVERS[name](field, observation, KEY, **OPTIONS[name] | options)[0])()


WHOLE = np.random.default_rng(1).integers(-1, 2, SHAPE)  # exact in all types
TYPES = dict(
    float16=lambda y: jnp.asarray(y, jnp.float16),
    bfloat16=lambda y: jnp.asarray(y, jnp.bfloat16),
    int32=lambda y: jnp.asarray(y, jnp.int32),
    int8=lambda y: np.asarray(y, np.int8),
    float64=lambda y: np.asarray(y, np.float64),
    lists=lambda y: y.tolist(),
)


HEAVY = [pytest.param(name, marks=pytest.mark.slow) if name == "d_flow" else name for name in SOLVERS]


@pytest.mark.parametrize("name", HEAVY)
def test_the_type_of_a_measurement_changes_nothing(name):
    expected = np.asarray(run(name, jnp.float32(WHOLE)))
    assert expected.dtype == np.float32
    for kind in TYPES if name == "dps" else ("int8", "bfloat16"):
        found = run(name, TYPES[kind](WHOLE))
        assert found.dtype == np.float32, kind
        np.testing.assert_array_equal(found, expected, err_msg=kind)


@pytest.mark.parametrize("name", HEAVY)
def test_enabling_64_bits_changes_nothing_for_a_field_of_32(name, x64):
    with jax.enable_x64(False):
        expected = np.asarray(run(name, jnp.float32(WHOLE)))
    operator = operators.make("motion_blur", SHAPE, kernel=KERNEL)  # its kernel has 64 bits
    found = run(name, np.float64(WHOLE), np.float64(0.3), operator)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_field_of_64_bits_works_in_them(x64):
    target = Gaussian(MEAN, 0.5)
    noise = np.random.default_rng(2).normal(size=SHAPE)
    found = run("dps", jnp.float32(WHOLE), field=target.average_field, noise=noise)
    assert found.dtype == np.float64
    assert field_dtype(target.average_field) == np.float64
    assert field_dtype(lambda x, s, t: x) == np.float64
    assert field_dtype(FIELD) == np.float32
    np.testing.assert_allclose(found, run("dps", WHOLE, noise=noise.tolist()), atol=1e-5)


def test_options_may_have_any_type():
    expected = run("pnp", WHOLE, lookahead=0.5, times=jnp.float32([0, 0.5]))
    for lookahead, times in ((jnp.bfloat16(0.5), [0.0, 0.5]), (np.float64(0.5), np.float16([0, 0.5]))):
        np.testing.assert_array_equal(run("pnp", WHOLE, lookahead=lookahead, times=times), expected)


def test_the_adjoint_takes_any_type():
    expected = operators.adjoint(BLUR, jnp.float32(WHOLE))
    hdr = operators.make("hdr", SHAPE)
    for convert in TYPES.values():
        np.testing.assert_array_equal(operators.adjoint(BLUR, convert(WHOLE)), expected)
        np.testing.assert_allclose(operators.adjoint(hdr, convert(WHOLE), convert(0 * WHOLE)), 2 * WHOLE)
    half = operators.from_function(lambda x: x.astype(jnp.float16), SHAPE, linear=True)
    np.testing.assert_array_equal(operators.adjoint(half, WHOLE), np.float32(WHOLE))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(SHAPE, complex), "y holds complex128: pass real numbers"),
        ([["a"]], "y holds <U1: pass real numbers"),
        ([[1.0], [1.0, 2.0]], "y is not an array"),
        (np.zeros((2, *SHAPE)), r"y has shape \(2, 4, 3, 1\) but motion_blur"),
        (3.0, r"y has shape \(\) but motion_blur"),
    ],
)
def test_what_is_no_measurement_is_one_line(y, message):
    for call in (lambda: run("pnp", y), lambda: operators.adjoint(BLUR, y)):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_sigma_may_have_any_type_and_a_map_of_equal_numbers_is_that_number():
    full, x = np.full(SHAPE, 0.25), jnp.float32(MEAN)
    expected = Observation(y=WHOLE, operator=MASK, noise=GaussianNoise(sigma=0.25)).in_type(jnp.float32)
    for sigma in (
        jnp.float32(0.25),
        jnp.bfloat16(0.25),
        np.float64(0.25),
        full,
        jnp.float16(full),
        full.tolist(),
        [0.25],
    ):
        found = Observation(y=WHOLE, operator=MASK, noise=GaussianNoise(sigma=sigma)).in_type(jnp.float32)
        for value in (Observation.negative_log_likelihood, Observation.energy):
            np.testing.assert_allclose(value(found, x), value(expected, x), rtol=1e-6)
    np.testing.assert_allclose(run("flower", WHOLE, jnp.bfloat16(0.25)), run("flower", WHOLE, full.tolist()), atol=2e-5)
    assert GaussianNoise(sigma=np.uint8(20)).variance == 400


@pytest.mark.parametrize("name", [*(name for name in HEAVY if name != "ot_ode"), "pnp-proximal"])
def test_a_map_of_noise_levels_is_a_whitened_measurement(name):
    """Noise of sigma_i is that of sigma_min once entry i of y and of H is multiplied by w_i = sigma_min / sigma_i."""
    name, *proximal = name.split("-")
    options = (dict(blend=0.0) if name == "d_flow" else {}) | (dict(data_step="proximal") if proximal else {})
    w = jnp.asarray(MAP.min() / MAP, jnp.float32)
    white = operators.from_function(lambda x: w * BLUR(x), SHAPE, linear=True)
    expected = run(name, w * WHOLE, MAP.min(), white, **options)
    np.testing.assert_allclose(run(name, WHOLE, MAP, **options), expected, atol=2e-5)
    assert np.abs(expected - run(name, WHOLE, MAP.min(), **options)).max() > 1e-3


def matrix(operator):
    return np.asarray(jax.vmap(operator)(jnp.eye(SIZE).reshape(SIZE, *SHAPE)), np.float64).reshape(SIZE, -1).T


def clear(sigma):
    """The variances of the entries of a measurement [SIZE, SIZE]."""
    return np.diag(np.broadcast_to(np.square(sigma, dtype=float), SHAPE).ravel())


def ot_ode_in_numpy(operator, y, sigma, noise, steps, start=0.2, lam=0.5):
    H, mean = matrix(operator), np.ravel(MEAN)
    variance = np.maximum(np.diag(clear(sigma)), SMALLEST_SIGMA**2)
    precision = np.min(variance) / variance
    back = H.T * precision
    x = start * back @ y / np.linalg.norm(back @ H, 2) + (1 - start) * noise
    for t in start + (1 - start) / steps * np.arange(steps):
        gain = (t * lam - (1 - t)) / ((1 - t) ** 2 + t**2 * lam)
        v, spread = mean + gain * (x - t * mean), (1 - t) ** 2 + t**2
        covariance = (1 - t) ** 2 / spread * H @ H.T + clear(sigma)
        misfit = np.linalg.pinv(covariance, hermitian=True) @ (y - H @ (x + (1 - t) * v))
        correction = (1 + (1 - t) * gain) * H.T @ misfit
        x = x + (1 - start) / steps * (v + np.sqrt(t / spread) * (1 - t) / t * correction)
    return x


def flower_in_numpy(operator, y, sigma, steps, spread, lam=0.5):
    H, mean = matrix(operator), np.ravel(MEAN)

    def draw(key):
        return np.ravel(jax.random.normal(key, SHAPE)).astype(float)

    start_key, step_key = jax.random.split(KEY)
    x = draw(start_key)
    for i, key in enumerate(jax.random.split(step_key, steps)):
        s = i / steps
        on_image, on_data, again = jax.random.split(key, 3)
        m = mean + s * lam / ((1 - s) ** 2 + s**2 * lam) * (x - s * mean)
        nu2 = (1 - s) ** 2 / (s**2 + (1 - s) ** 2)
        m = m + spread * np.sqrt(nu2) * draw(on_image)
        y_drawn = y + spread * np.sqrt(clear(sigma)) @ draw(on_data)
        image = m + nu2 * H.T @ np.linalg.pinv(nu2 * H @ H.T + clear(sigma), hermitian=True) @ (y_drawn - H @ m)
        x = (i + 1) / steps * image + (1 - (i + 1) / steps) * draw(again)
    return image


LEVELS = [0.3, 1e-3, 1e-8, 0.0, MAP, np.where(MAP > 0.4, MAP, 0)]


@cache
def measured(operator):
    return observe(operator, GaussianNoise(sigma=0.0), TARGET.sample(KEY, 1)[0], KEY).y


@pytest.mark.parametrize("operator", [SHARP, MASK], ids=["blur", "mask"])
@pytest.mark.parametrize("sigma", LEVELS, ids=["some", "little", "less", "none", "map", "map_with_none"])
def test_linear_solves_are_right_at_every_noise_level(sigma, operator):
    y = measured(operator)
    flat, noise = np.ravel(y).astype(float), np.random.default_rng(3).normal(size=SHAPE)
    found = run("ot_ode", y, sigma, operator, steps=4, noise=noise)
    np.testing.assert_allclose(np.ravel(found), ot_ode_in_numpy(operator, flat, sigma, noise.ravel(), 4), atol=2e-3)
    for spread in (0.0, 1.0):
        found = run("flower", y, sigma, operator, steps=4, spread=spread)
        np.testing.assert_allclose(np.ravel(found), flower_in_numpy(operator, flat, sigma, 4, spread), atol=2e-3)
        if np.all(sigma == 0):
            np.testing.assert_allclose(operator(found), y, atol=1e-4)


@pytest.mark.parametrize("name", ["pnp", pytest.param("d_flow", marks=pytest.mark.slow), "dps"])
def test_solvers_that_take_no_noise_level_do_not_mind_its_absence(name):
    expected = run(name, WHOLE, 0.3)
    for sigma in (1e-8, 0, jnp.float32(1e-25)):
        np.testing.assert_allclose(run(name, WHOLE, sigma), expected, atol=1e-5)


def test_noise_of_level_zero_leaves_the_measurement_as_it_is():
    x = TARGET.sample(KEY, 1)[0]
    np.testing.assert_array_equal(observe(BLUR, GaussianNoise(sigma=0), x, KEY).y, BLUR(x))
    some = observe(MASK, GaussianNoise(sigma=np.where(MAP > 0.4, MAP, 0)), x, KEY)
    assert ((some.y == MASK(x)) == (MAP <= 0.4)).all()
    assert (
        Observation(y=x, operator=MASK, noise=GaussianNoise(sigma=0)).in_type(jnp.float32).noise.sigma == SMALLEST_SIGMA
    )


@pytest.mark.parametrize("name", ["pnp", "flower", "ot_ode"])
def test_every_image_of_a_batch_may_have_its_own_noise_level(name):
    sigmas, keys, y = jnp.asarray([0.1, 0.3, 1.0]), jax.random.split(KEY, 3), TARGET.sample(KEY, 3)

    def restore(y, sigma, key):
        observation = Observation(y=y, operator=BLUR, noise=GaussianNoise(sigma=sigma))
        return SOLVERS[name](FIELD, observation, key, **OPTIONS[name])[0]

    def restore_tree(observation, key):
        return SOLVERS[name](FIELD, observation, key, **OPTIONS[name])[0]

    found = jax.jit(jax.vmap(restore))(y, sigmas, keys)
    for i in range(3):
        np.testing.assert_allclose(found[i], jax.jit(restore)(y[i], sigmas[i], keys[i]), atol=1e-5)
    # The same as one pytree, with the levels as one of its leaves.
    whole = Observation(y=y, operator=BLUR, noise=GaussianNoise(sigma=sigmas))
    axes = Observation(y=0, operator=None, noise=GaussianNoise(sigma=0))
    np.testing.assert_allclose(jax.jit(jax.vmap(restore_tree, (axes, 0)))(whole, keys), found, atol=1e-5)


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (
            np.ones(7),
            r"GaussianNoise of shape \(7,\) for a measurement of shape \(4, 3, 1\): pass one number, or an array",
        ),
        (np.ones(3), r"of shape \(3,\) for a measurement of shape \(4, 3, 1\): .*; vmap over a batch"),
        (np.ones((2, *SHAPE)), r"of shape \(2, 4, 3, 1\) for"),
    ],
)
def test_noise_levels_that_do_not_fit_are_one_line(sigma, message):
    calls = [partial(run, name, WHOLE, sigma) for name in SOLVERS]
    for call in (*calls, lambda: observe(BLUR, GaussianNoise(sigma=sigma), jnp.float32(WHOLE), KEY)):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_other_noise_may_vary_between_pixels_too():
    observation = Observation(y=jnp.float32(WHOLE + 0.5), operator=MASK, noise=LaplaceNoise(scale=MAP))
    slope = jax.grad(observation.energy)(jnp.zeros(SHAPE))
    expected = -4 * np.min(MAP) ** 2 * operators.adjoint(MASK, np.sign(WHOLE + 0.5) / MAP)
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_numbers_of_lists_and_words():
    assert as_float([1, 2]).dtype == np.float32
    with pytest.raises(InputError, match="GaussianNoise: sigma holds <U1: pass real numbers"):
        GaussianNoise(sigma=["x"])


@pytest.mark.parametrize("name", ["pnp", "flower", "ot_ode", "dps", "flow_priors"])
def test_a_function_may_hold_numbers_of_64_bits(name, x64):
    """Where 64 bits are enabled, a field of 32 restores as without; and a field of 64 after it."""
    weights = np.random.default_rng(4).uniform(0.5, 1.0, SHAPE)
    operator = operators.from_function(lambda x: x * weights, SHAPE, linear=True)
    found = run(name, jnp.float32(WHOLE), operator=operator)
    assert found.dtype == np.float32
    exact = run(name, WHOLE, operator=operators.from_function(lambda x: x * jnp.float32(weights), SHAPE, linear=True))
    np.testing.assert_allclose(found, exact, atol=1e-5)
    after = run(name, WHOLE, operator=operator, field=Gaussian(MEAN, 0.5).average_field)
    assert after.dtype == np.float64
