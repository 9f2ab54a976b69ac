import jax
import pytest

from configs import celeba
from fmdp import bench, train
from fmdp.errors import InputError


@pytest.fixture(scope="module")
def tiny():
    config = celeba.get_config("smoke")
    config.data.size = config.network.resolution = 8
    return config


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_holds_the_state(tiny):
    found = bench.memory(tiny)
    state = jax.eval_shape(lambda: train.init_state(tiny, found["image_shape"], jax.random.key(0)))
    assert found["image_shape"] == (8, 8, 3)
    assert found["fixed_bytes"] >= sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert found["bytes_per_example"] > 4 * 8 * 8 * 3
    least, *_, most = found["batch_per_device"].values()
    assert most >= 5 * least > 0
    fits = found["batch_per_device"]["16GB"]
    assert found["fixed_bytes"] + fits * found["bytes_per_example"] == pytest.approx(0.9 * 16e9, rel=1e-3)


def test_images_without_a_size_are_refused(tiny):
    config = tiny.copy_and_resolve_references()
    config.data.size = config.network.resolution = 0
    with pytest.raises(InputError, match=r"config.data.size = 0"):
        bench.memory(config)
