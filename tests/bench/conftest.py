import pytest

from configs import celeba


@pytest.fixture
def tiny():
    """A configuration of pictures with a network that compiles fast; each test may change its own."""
    config = celeba.get_config("smoke")
    config.data.size = 8
    config.network = dict(name="mlp", width=16, blocks=1)
    return config
