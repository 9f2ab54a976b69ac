import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.errors import InputError
from fmdp.flow import average_field, interpolant

pytestmark = pytest.mark.device


def linear_field(x, s, t):
    """The exact average field of dx/dt = x, whose flow is X_{s,t}(x) = exp(t - s) x."""
    gap = interpolant.expand(jnp.asarray(t) - jnp.asarray(s), x)
    return x * jnp.where(gap == 0, 1.0, jnp.expm1(gap) / jnp.where(gap == 0, 1.0, gap))


X = jax.random.normal(jax.random.key(0), (5, 3, 4, 2))
S = jnp.array([0.0, 0.1, 0.4, 0.7, 1.0])


def test_interpolant_has_its_ends_and_its_velocity():
    x0, x1 = X, X[::-1] * 2
    np.testing.assert_array_equal(interpolant.interpolate(x0, x1, 0.0), x0)
    np.testing.assert_array_equal(interpolant.interpolate(x0, x1, 1.0), x1)
    moved = interpolant.interpolate(x0, x1, S + 0.01) - interpolant.interpolate(x0, x1, S)
    np.testing.assert_allclose(moved / 0.01, interpolant.conditional_velocity(x0, x1), atol=1e-4)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0])
def test_time_and_sigma_are_inverse_and_put_a_noisy_picture_on_the_path(sigma):
    s = interpolant.time_of_sigma(sigma)
    assert interpolant.sigma_of_time(s) == pytest.approx(sigma, rel=1e-5)
    x1, noise = X, X[::-1]
    np.testing.assert_allclose(s * (x1 + sigma * noise), interpolant.interpolate(noise, x1, s), atol=1e-5)


def test_flow_map_follows_the_flow_and_is_the_identity_where_times_meet():
    np.testing.assert_allclose(
        average_field.flow_map(linear_field, X, S, 1.0), X * jnp.exp(1 - S)[:, None, None, None], rtol=1e-5
    )
    np.testing.assert_array_equal(average_field.flow_map(linear_field, X, S, S), X)


def test_denoise_ends_are_the_one_step_estimate_and_the_flow_map():
    np.testing.assert_allclose(
        average_field.denoise(linear_field, X, S, S), X * (2 - S)[:, None, None, None], rtol=1e-6
    )
    np.testing.assert_allclose(
        average_field.denoise(linear_field, X, S, 1.0), average_field.flow_map(linear_field, X, S, 1.0), rtol=1e-6
    )


def test_chord_is_straight_between_the_ends_of_the_lookahead():
    first, last = (average_field.denoise(linear_field, X, S, t) for t in (S, 1.0))
    for r in (0.0, 0.25, 1.0):
        np.testing.assert_allclose(
            average_field.chord(linear_field, X, S, r), (1 - r) * first + r * last, rtol=1e-5, atol=1e-6
        )


def test_whole_numbers_and_lists_are_images_for_every_use():
    whole = np.arange(4).reshape(1, 2, 2, 1)
    for use in (average_field.chord, average_field.flow_map, average_field.denoise):
        expected = use(linear_field, jnp.asarray(whole, jnp.float32), 0.5, 0.75)
        for x in (whole, whole.tolist(), whole.astype(np.int8), whole.astype(">f4")):
            np.testing.assert_array_equal(use(linear_field, x, 0.5, 0.75), expected)


def test_one_image_and_a_batch_agree():
    batch = average_field.denoise(linear_field, X, S, 0.5 * (1 + S))
    for i in range(len(X)):
        np.testing.assert_allclose(
            average_field.denoise(linear_field, X[i], S[i], 0.5 * (1 + S[i])), batch[i], rtol=1e-6
        )


def test_sampling_takes_the_flow_to_time_one_in_any_number_of_steps():
    key = jax.random.key(3)
    one, many = (average_field.sample(linear_field, key, (4, 2, 2, 1), steps) for steps in (1, 7))
    np.testing.assert_allclose(one, jax.random.normal(key, (4, 2, 2, 1)) * jnp.e, rtol=1e-5)
    np.testing.assert_allclose(one, many, rtol=1e-5)


def test_relative_lookahead():
    np.testing.assert_allclose(
        average_field.lookahead_time(0.6, jnp.array([0.0, 0.5, 1.0])), [0.6, 0.8, 1.0], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int32", "int8", "float64", "lists"])
def test_denoising_takes_numbers_of_any_type(kind):
    x = np.random.default_rng(0).integers(-2, 3, (3, 4, 2))
    given = x.tolist() if kind == "lists" else np.asarray(x, kind) if kind != "bfloat16" else jnp.asarray(x, kind)
    expected = average_field.denoise(linear_field, jnp.float32(x), 0.25, 1.0)
    found = average_field.denoise(linear_field, given, 0.25, 1.0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, x + 0.75 * x * np.expm1(0.75) / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(lambda x: average_field.denoise(linear_field, x, 0.25, 1.0))(given), expected)


def test_denoising_with_64_bits_enabled_keeps_the_type_of_the_field(x64):
    field = jax.tree_util.Partial(lambda one, x, s, t: one * linear_field(x, s, t), jnp.float32(1))
    assert average_field.denoise(field, np.asarray(X, np.float64), 0.2, 0.8).dtype == np.float32
    assert average_field.denoise(linear_field, np.asarray(X, np.float64), 0.2, 0.8).dtype == np.float64
    assert average_field.denoise(linear_field, np.asarray(X, np.float32), 0.2, 0.8).dtype == np.float32


@pytest.mark.parametrize(
    ("x", "s", "t", "message"),
    [
        (X, 0.5, 0.4, r"0.5 comes before 0.4; pass s <= t, both in \[0, 1\]"),
        (X, S, jnp.full(5, 0.5), "0.7 comes before 0.5"),
        (X, 0.5, 1.5, "1.5 comes before 1"),
        (X, -0.1, 0.5, "0 comes before -0.1"),
        (X, jnp.full((3, 4), 0.5), 1.0, r"s has shape \(3, 4\) for images of shape \(5, 3, 4, 2\): pass one time, or"),
        (
            X,
            0.5,
            jnp.ones(3),
            r"t has shape \(3,\) for images .*: pass one time, or one for each image, of shape \(5,\)",
        ),
        (X[0, :, :, 0], 0.5, 1.0, r"x has shape \(3, 4\): pass images \[..., height, width, channels\]"),
        (X * 1j, 0.5, 1.0, "x holds complex64: pass real numbers"),
    ],
)
def test_denoising_refuses_other_times_and_shapes_in_one_line(x, s, t, message):
    with pytest.raises(InputError, match=message) as error:
        average_field.denoise(linear_field, x, s, t)
    assert "\n" not in str(error.value)
    assert average_field.denoise(linear_field, X, 0.5, 0.5).shape == X.shape
