"""Which rows of a training batch train the diagonal: a pattern of the row that is the same in every part of the batch.

Devices and gradient accumulation divide a batch into contiguous blocks of equal length. Of every `period` consecutive
rows the first `count` train the diagonal, and the period divides the length of a block. So every block takes its
diagonal rows by the same static slice, and no example moves between devices.
"""

import math

from jax import Array

Rows = dict[str, Array]
"""Examples side by side: `image` [b, H, W, C] and `row` [b], their positions in the global batch."""


def diagonal_pattern(rows: int, share: float) -> tuple[int, int]:
    """(count, period) for blocks of `rows` rows: of every `period` rows the first `count` train the diagonal.

    The share count / period is the multiple of 1 / rows nearest to `share`, in lowest terms.

    >>> diagonal_pattern(128, 0.75), diagonal_pattern(16, 0.7), diagonal_pattern(2, 0.75)
    ((3, 4), (11, 16), (1, 1))
    """
    count = round(share * rows)
    common = math.gcd(count, rows)
    return count // common, rows // common


def split_rows(block: Rows, share: float) -> tuple[Rows, Rows]:
    """The examples of a block that train the diagonal, and the others; all shapes are static.

    In each group `row` is counted anew over the whole batch, 0, 1, 2, ..., because the times of consecutive rows fill
    the unit square evenly (`times.kronecker_times`) and those of every fourth row would not.

    Args:
      block: contiguous rows; it begins at a multiple of its length.
      share: of the rows, in (0, 1].
    """
    count, period = diagonal_pattern(len(block["row"]), share)

    def group(first: int, end: int) -> Rows:
        image, row = (x.reshape(-1, period, *x.shape[1:])[:, first:end] for x in (block["image"], block["row"]))
        row = row // period * (end - first) + row % period - first
        return {"image": image.reshape(-1, *image.shape[2:]), "row": row.reshape(-1)}

    return group(0, count), group(count, period)
