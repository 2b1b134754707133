"""`projected_cosine`: as `cosine`, with what the code space does not hold counted as zero.

    score(z) = mean over queries q, mean over rows t of z:
               cos(code_t(z), code_w(t)(q)) * length_t(z) * length_w(t)(q)

A length is that of the unit sketch in the code space, at most 1. The product is the inner product
of the two projections, and a better estimate of the gradients' cosine than that of codes scaled to
length 1, which inflates the cosines of samples the code space hardly knows: see docs/method.md.
"""

from __future__ import annotations

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register(
    "projected_cosine",
    needs={"gradients", "queries"},
    says="The cosine method with what the codes do not hold counted as zero.",
)
def projected_cosine(
    request: Request, *, per_query: bool | None = None, block_rows: int = 8192
) -> Ranking:
    """Mean inner product of unit gradients within the code space; options as for `cosine`.

    Raises:
        RankingError: the store was written by a release that did not keep the lengths.
    """
    if "code_length" not in request.require_store().column_names():
        raise RankingError(
            "method 'projected_cosine' needs the lengths of the codes, which this store does not "
            "have; value again, or use 'cosine'"
        )
    return rank_by_cosines(
        request,
        row_factors=["code_length"],
        query_factors=["code_length"],
        mean_over_rows=True,
        per_query=per_query,
        block_rows=block_rows,
    )
