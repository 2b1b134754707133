"""`tracin`: how much of the queries' loss did the steps on this sample take away?

    score(z) = mean over queries q, sum over rows t of z:
               learning_rate_t * |g_t(z)| * |g_w(t)(q)| * cos(code_t(z), code_w(t)(q))

The product of norms and cosine is the dot product of the two gradients, with the cosine read from
the codes. Source: Pruthi et al. 2020, TracIn, arXiv 2002.08484; every captured step is a checkpoint
here, and the queries' gradients are those of the start of the row's window w(t).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import register
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register("tracin")
def tracin(request: Request, *, block_rows: int = 8192) -> Ranking:
    """Sum of learning rate x dot product; `block_rows` bounds the memory.

    Raises:
        RankingError: the rows have no learning rate, as those of a frozen model.
    """
    store = request.require_store()
    positions = request.query_positions()
    records = store.records()
    rates = records["learning_rate"].to_numpy(dtype=np.float64)
    unknown = int(np.count_nonzero(~np.isfinite(rates)))
    if unknown or not rates.any():
        raise RankingError(
            f"method 'tracin' weighs rows by their learning rate, which is unknown for {unknown} "
            f"and zero for {int(np.count_nonzero(rates == 0))} of {len(rates)} rows; features "
            "taken without training have none, use 'cosine'"
        )
    factors = rates * records["grad_norm"].to_numpy(dtype=np.float64)
    norms: dict[int, NDArray[np.float32]] = {}

    def weights(rows: NDArray[np.int64], window: int) -> NDArray[np.float32]:
        if window not in norms:
            column = store.query_records(window)["grad_norm"].to_numpy(dtype=np.float32)
            norms[window] = column[positions]
        return factors[rows, None].astype(np.float32) * norms[window]

    return rank_by_cosines(request, weights, mean_over_rows=False, block_rows=block_rows)
