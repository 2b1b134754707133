"""`fisher`: `cosine`, with what all gradients have in common counted less.

    score(z) = mean over queries q, mean over rows t of z:  c_t(z)^T (F + damping)^-1 c_w(t)(q)

c is the unit gradient within the code space and F the Fisher of all rows there, see `curvature.py`;
the query is the mean of both ends of the row's window w(t). This is the natural gradient's inner
product (Amari 1998), and the influence function (Koh and Liang 2017, arXiv 1703.04730) of unit
gradients with the Fisher for the Hessian: a direction into which many samples pull is learned
anyway, and one sample more or less changes little there.
"""

from __future__ import annotations

from influcoder_lightning.influence.curvature import Curvature, CurvedQueries
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register(
    "fisher",
    needs={"gradients", "queries"},
    says="Ranks by gradient cosines after taking off what all samples teach anyway (the "
    "run's curvature).",
)
def fisher(
    request: Request,
    *,
    damping: float = 0.1,
    per_query: bool | None = None,
    block_rows: int = 8192,
) -> Ranking:
    """Mean damped natural-gradient inner product of unit gradients.

    Reads the codes twice.

    Args:
        request: what was asked.
        damping: share of F's largest eigenvalue that is added to its diagonal; a large one gives
            `projected_cosine`.
        per_query: as for `cosine`.
        block_rows: as for `cosine`.

    Raises:
        RankingError: a damping that is not positive, or a store without the lengths of the codes.
    """
    positions = request.query_positions()
    curvature = Curvature(request, damping, block_rows)
    return rank_by_cosines(
        request,
        row_factors=["code_length"],
        mean_over_rows=True,
        per_query=per_query,
        block_rows=block_rows,
        positions=positions,
        queries=CurvedQueries(request, positions, curvature),
    )
