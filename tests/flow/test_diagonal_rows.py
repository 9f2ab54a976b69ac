import jax.numpy as jnp
import numpy as np
import pytest

from fmdp.flow.diagonal_rows import diagonal_pattern, split_rows

pytestmark = pytest.mark.device

B = 32


def batch():
    rows = jnp.arange(B, dtype=jnp.int32)
    return {"image": jnp.broadcast_to(rows.astype(float)[:, None, None, None], (B, 2, 2, 1)), "row": rows}


def test_the_pattern_is_the_nearest_share_in_lowest_terms():
    assert diagonal_pattern(256, 0.5) == (1, 2)
    assert diagonal_pattern(4, 0.7) == (3, 4)  # 12 of 16 rows on four devices
    assert diagonal_pattern(8, 1.0) == (1, 1)
    assert diagonal_pattern(2, 0.75) == (1, 1)  # no off-diagonal row: config.validation refuses it


@pytest.mark.parametrize(("share", "count"), [(0.5, 16), (0.75, 24), (1.0, 32)])
def test_the_groups_have_the_share_and_count_their_rows_anew(share, count):
    diagonal, others = split_rows(batch(), share)
    for group, size in ((diagonal, count), (others, B - count)):
        np.testing.assert_array_equal(group["row"], np.arange(size))
        assert group["image"].shape == (size, 2, 2, 1)
    images = np.concatenate([diagonal["image"], others["image"]])[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(images), np.arange(B))


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_contiguous_blocks_take_the_rows_that_the_batch_takes(blocks):
    x, length = batch(), B // blocks
    parts = [split_rows({k: v[i : i + length] for k, v in x.items()}, 0.75) for i in range(0, B, length)]
    for group, pieces in zip(split_rows(x, 0.75), zip(*parts, strict=True), strict=True):
        for name in group:
            np.testing.assert_array_equal(np.concatenate([piece[name] for piece in pieces]), group[name])
