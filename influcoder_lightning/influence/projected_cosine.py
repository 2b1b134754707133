"""`projected_cosine`: as `cosine`, with what the code space does not hold counted as zero.

    score(z) = mean over queries q, mean over rows t of z:
               cos(code_t(z), code_w(t)(q)) * length_t(z) * length_w(t)(q)

A length is that of the unit sketch in the code space, at most 1. The product is the inner product
of the two projections, and a better estimate of the gradients' cosine than that of codes scaled to
length 1, which inflates the cosines of samples the code space hardly knows: see docs/method.md.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import register
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register("projected_cosine")
def projected_cosine(request: Request, *, block_rows: int = 8192) -> Ranking:
    """Mean inner product of unit gradients within the code space.

    Raises:
        RankingError: the store was written by a release that did not keep the lengths.
    """
    store = request.require_store()
    positions = request.query_positions()
    factors = _lengths(store.records())
    lengths: dict[int, NDArray[np.float32]] = {}

    def weights(rows: NDArray[np.int64], window: int) -> NDArray[np.float32]:
        if window not in lengths:
            lengths[window] = _lengths(store.query_records(window))[positions]
        return factors[rows, None] * lengths[window]

    return rank_by_cosines(request, weights, mean_over_rows=True, block_rows=block_rows)


def _lengths(records: pd.DataFrame) -> NDArray[np.float32]:
    if "code_length" not in records:
        raise RankingError(
            "method 'projected_cosine' needs the lengths of the codes, which this store does not "
            "have; value again, or use 'cosine'"
        )
    return records["code_length"].to_numpy(dtype=np.float32)
