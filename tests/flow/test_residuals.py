import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.exact import Gaussian, GaussianMixture
from fmdp.flow import residuals

pytestmark = pytest.mark.device

SHAPE = (1, 4, 1)
S, U, T = np.array([0.0, 0.3, 0.5]), np.array([0.4, 0.5, 0.7]), np.array([0.9, 0.8, 1.0])
TERMS = {
    "lagrangian": lambda field, x: residuals.lagrangian(field, x, *map(jnp.asarray, (S, T))),
    "eulerian": lambda field, x: residuals.eulerian(field, x, *map(jnp.asarray, (S, T))),
    "semigroup": lambda field, x: residuals.semigroup(field, x, *map(jnp.asarray, (S, U, T))),
}


@pytest.fixture
def target(x64):
    root = np.random.default_rng(0).normal(size=(4, 4))
    return Gaussian(np.full(SHAPE, 0.2), root @ root.T / 4)


@pytest.fixture
def x(x64):
    return jax.random.normal(jax.random.key(0), (3, *SHAPE))


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_zero_at_the_exact_field_and_only_there(target, x, name):
    term = TERMS[name]
    assert term(target.average_field, x).shape == (3,)
    assert np.all(term(target.average_field, x) < 1e-25)
    assert np.all(term(lambda x, s, t: target.velocity(x, s), x) > 1e-4)  # one Euler step


@pytest.mark.slow
def test_zero_at_the_exact_field_of_a_mixture(x):
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 4, 4))
    mixture = GaussianMixture(
        np.ones(2), rng.normal(size=(2, 4)), roots @ np.swapaxes(roots, 1, 2) / 8, SHAPE, tolerance=1e-8
    )
    measure = jax.jit(lambda x: {name: term(mixture.average_field, x) for name, term in TERMS.items()})
    for name, values in measure(x).items():
        assert np.all(values < 1e-11), name


def test_values_against_their_definitions(x):
    """At v = x (1 + t) + s the terms can be written down."""

    def field(x, s, t):
        s, t = (jnp.asarray(time)[..., None, None, None] for time in (s, t))
        return x * (1 + t) + s

    def relative(difference, reference):
        return np.mean(np.square(difference), (1, 2, 3)) / np.mean(np.square(reference), (1, 2, 3))

    s, u, t = (np.asarray(time)[:, None, None, None] for time in (S, U, T))
    end = x + (t - s) * (x * (1 + t) + s)
    speed = x * (1 + t) + s + (t - s) * x
    b = x * (1 + s) + s
    change = -(x * (1 + t) + s) + (t - s) + (1 + (t - s) * (1 + t)) * b
    middle = x + (u - s) * (x * (1 + u) + s)
    two = ((u - s) * (x * (1 + u) + s) + (t - u) * (middle * (1 + t) + u)) / (t - s)
    expected = {
        "lagrangian": relative(speed - (end * (1 + t) + t), end * (1 + t) + t),
        "eulerian": relative(change, b),
        "semigroup": relative(x * (1 + t) + s - two, x * (1 + t) + s),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(TERMS[name](field, x), value, rtol=1e-10, err_msg=name)


def test_field_error_is_relative_and_per_example(target, x):
    scale = jnp.array([1.0, 1.1, 0.5])[:, None, None, None]
    error = residuals.relative_field_error(
        lambda *a: scale * target.average_field(*a), target.average_field, x, jnp.asarray(S), jnp.asarray(T)
    )
    np.testing.assert_allclose(error, [0, 0.1, 0.5], atol=1e-12)


def test_diagonal_is_finite(target, x):
    s = jnp.asarray(S)
    for term in (residuals.lagrangian, residuals.eulerian):
        assert np.all(np.asarray(term(target.average_field, x, s, s)) < 1e-25)
    assert np.all(np.asarray(residuals.semigroup(target.average_field, x, s, s, s)) < 1e-25)


@pytest.mark.slow
def test_table_over_a_grid(target):
    images = target.sample(jax.random.key(1), 50)
    pairs = [(0.2, 0.2), (0.2, 1.0), (0.6, 0.9)]

    def wrong(x, s, t):
        return target.average_field(x, s, t) * (1 + 0.1 * jnp.asarray(t - s)[..., None, None, None])

    rows = residuals.table(target.average_field, images, jax.random.key(2), pairs, target.average_field)
    assert [(row["s"], row["t"]) for row in rows] == pairs
    assert all(row[name] < 1e-20 for row in rows for name in (*TERMS, "field_error"))
    rows = residuals.table(wrong, images, jax.random.key(2), pairs, target.average_field)
    assert [row["field_error"] for row in rows] == pytest.approx([0, 0.08, 0.03])
    assert all(row[name] > 1e-6 for row in rows[1:] for name in TERMS)
    assert "field_error" not in residuals.table(wrong, images, jax.random.key(2), pairs[:1])[0]


@pytest.mark.slow
def test_parts_of_the_images_give_the_table_of_all(target):
    images, seen = target.sample(jax.random.key(1), 8), []

    def wrong(x, s, t):
        seen.append(len(x))
        return target.average_field(x, s, t) * (1 + 0.1 * jnp.asarray(t - s)[..., None, None, None])

    whole, parts = (
        residuals.table(wrong, images, jax.random.key(2), [(0.2, 0.9)], target.average_field, size)[0]
        for size in (None, 3)
    )
    assert parts == pytest.approx(whole, rel=1e-10)
    count = jax.device_count()
    assert {min(seen), max(seen)} == {-(-size // count) * count for size in (3, 8)}


@pytest.mark.parametrize(("s", "t", "message"), [(0.5, 0.4, "0.5 comes before 0.4"), (0.5, 1.5, "1.5 comes before 1")])
def test_bad_times(target, x, s, t, message):
    with pytest.raises(ValueError, match=message):
        residuals.lagrangian(target.average_field, x, s, t)
    with pytest.raises(ValueError, match=message):
        residuals.table(target.average_field, x, jax.random.key(0), [(s, t)])
