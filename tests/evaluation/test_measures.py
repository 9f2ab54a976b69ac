import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.evaluation import measures
from fmdp.evaluation.network_metrics import NO_NETWORKS
from fmdp.metrics import perception


@pytest.mark.device
def test_sets_are_on_the_device_one_at_a_time(monkeypatch):
    rng, measure, sizes = np.random.default_rng(0), measures._perception, []
    restored, real = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 2, 20, 2, 2, 1), (30, 2, 2, 1)))
    clean, width = jnp.asarray(restored[0, 0] / 2), jnp.float32(2.0)
    monkeypatch.setattr(measures, "_perception", lambda *given: sizes.extend(x.size for x in given) or measure(*given))
    found = measures.measure_sets(restored, clean, real, width, NO_NETWORKS)
    assert max(sizes) == real.size
    vectors = jnp.asarray(restored.reshape(3, 2, 20, 4)[2, 1])
    assert found["kernel_distance"].shape == (3, 2)
    assert found["kernel_distance"][2, 1] == pytest.approx(
        float(perception.kernel_distance(vectors, jnp.asarray(real.reshape(30, 4)), width)), rel=1e-4
    )
    assert found["variance_ratio"][0, 0] == pytest.approx(4)
