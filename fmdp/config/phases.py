"""The phases of a run: stretches of its steps, each with a share of the batch for the diagonal."""

import math
from itertools import accumulate
from typing import Any

from ml_collections import ConfigDict

from fmdp.errors import kind_fault


def phases(config: ConfigDict) -> list[tuple[int, float]]:
    """The last step of each phase and its share of the diagonal, in their order.

    It is one phase with `config.loss.diagonal_share` unless `config.loss.phases` says otherwise.
    """
    given = config.loss.phases or ((1.0, config.loss.diagonal_share),)
    ends = accumulate(part for part, _ in given)
    return [(round(end * config.train.steps), share) for end, (_, share) in zip(ends, given, strict=True)]


def phases_fault(given: Any) -> str:
    """What phases should be instead, if they are no pairs (part of the steps, share of the diagonal)."""
    pairs = [x for x in given if isinstance(x, list | tuple) and len(x) == 2]
    if len(pairs) < len(given) or any(kind_fault(x, float) for pair in pairs for x in pair):
        return "must be pairs (part of the steps, share of the diagonal), such as ((.5, 1.), (.5, .5))"
    if not all(part > 0 and 0 < share <= 1 for part, share in pairs):
        return "must have parts above 0 and shares in (0, 1]"
    return "" if not given or math.isclose(math.fsum(part for part, _ in pairs), 1) else "must have parts that sum to 1"
