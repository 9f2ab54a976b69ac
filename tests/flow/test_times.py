import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fmdp.flow.times import QUANTILES

pytestmark = pytest.mark.device

U = jnp.linspace(0.0, 1.0, 1001)[:-1]  # uniform numbers are below 1


@pytest.mark.parametrize("name", QUANTILES)
def test_times_lie_in_their_interval_and_keep_their_order(name):
    times = QUANTILES[name](U, 0.4, 1.0)
    assert np.all((times >= 0) & (times <= 1))
    assert np.all(np.diff(times) > 0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.4, 1.0), (-1.0, 0.5)])
def test_logit_normal_times_have_the_quantiles_of_scipy(mean, std):
    expected = jax.nn.sigmoid(scipy.stats.norm(mean, std).ppf(U[1:]))
    np.testing.assert_allclose(QUANTILES["logit_normal"](U[1:], mean, std), expected, rtol=1e-4)


def test_late_times_have_the_density_2t():
    np.testing.assert_allclose(QUANTILES["late"](U, 0.0, 1.0), scipy.stats.beta(2, 1).ppf(U), rtol=1e-5)
    np.testing.assert_array_equal(QUANTILES["uniform"](U, 0.0, 1.0), U)
