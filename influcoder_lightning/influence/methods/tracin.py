"""`tracin`: how much of the queries' loss did the steps on this sample take away?

    score(z) = mean over queries q, sum over rows t of z:
               learning_rate_t * |g_t(z)| * |g_w(t)(q)| * cos(code_t(z), code_w(t)(q))

The product of norms and cosine is the dot product of the two gradients, with the cosine read from
the codes. Source: Pruthi et al. 2020, TracIn, arXiv 2002.08484; every captured step is a checkpoint
here, and the queries' gradients are those of the start of the row's window w(t).
"""

from __future__ import annotations

import numpy as np

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register(
    "tracin",
    needs={"gradients", "queries"},
    says="Ranks by the sum over a sample's steps of learning rate times gradient dot product.",
)
def tracin(request: Request, *, per_query: bool | None = None, block_rows: int = 8192) -> Ranking:
    """Sum of learning rate x dot product; options as for `cosine`.

    Raises:
        RankingError: the rows have no learning rate, as those of a frozen model.
    """
    request.query_positions()  # no queries: that is the first thing to say
    rates = request.require_store().column("learning_rate")
    unknown = int(np.count_nonzero(~np.isfinite(rates)))
    if unknown or not rates.any():
        raise RankingError(
            f"method 'tracin' weighs rows by their learning rate, which is unknown for {unknown} "
            f"and zero for {int(np.count_nonzero(rates == 0))} of {len(rates)} rows; features "
            "taken without training have none, use 'cosine'"
        )
    return rank_by_cosines(
        request,
        row_factors=["learning_rate", "grad_norm"],
        query_factors=["grad_norm"],
        mean_over_rows=False,
        per_query=per_query,
        block_rows=block_rows,
    )
