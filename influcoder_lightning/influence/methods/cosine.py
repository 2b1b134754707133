"""`cosine`: does the sample pull the parameters the way the queries do?

    score(z) = mean over queries q, mean over rows t of z: cos(code_t(z), code_w(t)(q))

where w(t) is the window in which row t was captured, and code_w(q) was taken at its start: codes
of different windows are not comparable. Source: Xia et al. 2024, LESS, arXiv 2402.04333 (cosine
because the gradient norm falls with response length); here with a mean over the rows.
"""

from __future__ import annotations

from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register(
    "cosine",
    needs={"gradients", "queries"},
    says="Ranks by the mean cosine of a sample's gradients with the queries' of the same window.",
)
def cosine(request: Request, *, per_query: bool | None = None, block_rows: int = 8192) -> Ranking:
    """Mean cosine with the queries.

    Args:
        request: what was asked.
        per_query: keep `Ranking.per_query`; None: where it takes at most 256 MiB.
        block_rows: rows worked on at a time; bounds the memory.
    """
    return rank_by_cosines(request, mean_over_rows=True, per_query=per_query, block_rows=block_rows)
