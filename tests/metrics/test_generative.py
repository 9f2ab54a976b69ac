import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.errors import InputError
from fmdp.exact.wasserstein import squared_w2
from fmdp.metrics import generative
from fmdp.metrics.generative import Moments

pytestmark = pytest.mark.device

KEY = jax.random.key(0)


def normal(index, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, index), shape)


def test_fid_of_gaussians_is_the_closed_form():
    means, deviations = np.array([[0.0, 1, 2], [0.5, 1, 0]]), np.array([[1.0, 2, 3], [1, 0.5, 3]])
    rotation, _ = np.linalg.qr(np.asarray(normal(0, 3, 3), np.float64))
    x, y = (Moments(5000, m, np.diag(d) @ rotation.T) for m, d in zip(means, deviations, strict=True))
    expected = 0.5**2 + 2**2 + 1.5**2
    assert generative.fid(x, y) == pytest.approx(expected, rel=1e-10)
    drawn = [means[i] + (np.asarray(normal(i, 20_000, 3)) * deviations[i]) @ rotation.T for i in range(2)]
    assert generative.fid(*(generative.moments(rows) for rows in drawn)) == pytest.approx(expected, rel=0.03)


def test_fid_is_safe_where_the_covariance_is_singular():
    x = generative.moments(normal(1, 100, 512))
    assert generative.fid(x, x, small=True) == pytest.approx(0, abs=1e-9)
    away = x._replace(mean=x.mean + 2.0)
    assert generative.fid(x, away, small=True) == pytest.approx(4 * 512, rel=1e-6)


def test_fid_is_the_distance_between_fitted_gaussians():
    x, y = normal(12, 50, 8), 0.5 + 2 * normal(13, 6, 8)  # one of them with fewer vectors than dimensions
    fitted = [part for rows in (x, y) for part in (np.mean(rows, 0), np.cov(rows, rowvar=False))]
    expected = squared_w2(*(np.asarray(part, np.float64) for part in fitted))
    assert generative.fid(*map(generative.moments, (x, y)), small=True) == pytest.approx(expected, rel=1e-4)


def test_fid_of_few_images_is_refused_unless_asked_for():
    few, enough = generative.moments(normal(1, 2047, 2)), generative.moments(normal(2, 2048, 2))
    with pytest.raises(InputError, match=r"FID of 2047 images: below 2048 it is mostly bias; use KID"):
        generative.fid(enough, few)
    assert generative.fid(enough, few, small=True) < 0.05
    assert generative.fid(enough, enough) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_kid_is_the_closed_form_and_its_subsets_agree():
    shift = 0.4
    x, y = normal(3, 20_000, 1), shift + normal(4, 20_000, 1)
    mean, deviation = generative.kid(KEY, x, y)
    # E (xy + 1)^3 expands into products of moments, so that MMD^2 is a sum of squared differences of them.
    expected = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    assert mean == pytest.approx(expected, rel=0.1)
    assert 0 < deviation < expected


@pytest.mark.slow
def test_kid_equals_its_double_sum():
    x, y = normal(5, 7, 4), normal(6, 9, 4)
    key = jax.random.key(1)
    mean, deviation = generative.kid(key, x, y, size=6, subsets=1)
    keys = jax.random.split(jax.random.split(key, 1)[0])
    a, b = (np.asarray(v)[jax.random.choice(k, len(v), (6,), False)] for k, v in zip(keys, (x, y), strict=True))

    def total(p, q, same):
        return np.mean(
            [(u @ v / 4 + 1) ** 3 for i, u in enumerate(p) for j, v in enumerate(q) if not (same and i == j)]
        )

    assert mean == pytest.approx(total(a, a, True) + total(b, b, True) - 2 * total(a, b, False), abs=1e-5)
    assert deviation == 0


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, 3**0.5), (0.5, 1.0)])
def test_kid_is_unbiased_and_its_deviation_over_halves_is_an_error_bar(shift, ratio):
    runs = [
        generative.kid(jax.random.key(i), normal(2 * i, 100, 3), shift + normal(2 * i + 1, 100, 3)) for i in range(100)
    ]
    means, deviations = np.array(runs).T
    if shift == 0:
        assert abs(means.mean()) < 3 * means.std() / np.sqrt(len(runs))
    assert deviations.mean() == pytest.approx(ratio * means.std(), rel=0.25)


@pytest.mark.parametrize("size", [1, 100])
def test_kid_refuses_subsets_that_cannot_differ(size):
    with pytest.raises(InputError, match=f"KID of subsets of {size} out of 100 images"):
        generative.kid(KEY, normal(0, 100, 2), normal(1, 200, 2), size=size)


def precision_and_recall(x, y):
    return generative.covered(x, generative.manifold(y)), generative.covered(y, generative.manifold(x))


def test_precision_and_recall_see_what_is_wrong_and_what_is_missing():
    cluster, other = 0.01 * normal(7, 600, 4), 5 + 0.01 * normal(8, 600, 4)
    real = jnp.concatenate([cluster, other])
    outside = -5 + 0.01 * normal(9, 200, 4)
    precision, recall = precision_and_recall(jnp.concatenate([cluster[:300] + 1e-4, outside]), real)
    assert precision == pytest.approx(300 / 500, abs=0.02)
    assert recall == pytest.approx(0.5, abs=0.03)


def test_precision_and_recall_equal_their_definition():
    x, y = np.asarray(normal(10, 30, 2)) + 0.7, np.asarray(normal(11, 40, 2))

    def share(points, centres):
        between = np.linalg.norm(centres[:, None] - centres, axis=-1)
        radii = np.sort(between, axis=1)[:, 3]
        return np.mean(np.any(np.linalg.norm(points[:, None] - centres, axis=-1) <= radii, axis=1))

    precision, recall = precision_and_recall(jnp.asarray(x), jnp.asarray(y))
    assert (precision, recall) == (pytest.approx(share(x, y)), pytest.approx(share(y, x)))
    assert 0 < precision < 1


def test_a_manifold_needs_more_images_than_neighbours():
    with pytest.raises(InputError, match="precision and recall of 3 images: 4 or more"):
        generative.manifold(normal(0, 3, 2))
