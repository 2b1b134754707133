"""`relatif`: `fisher`, relative to what the sample does to the model at all.

    score(z) = mean over queries q, mean over rows t of z:
               c_t(z)^T (F + damping)^-1 c_w(t)(q) / sqrt(c_t(z)^T (F + damping)^-1 c_t(z))

as `fisher`, divided by the root of the row's own self-influence, so that samples that move the
model far in all directions do not come first for every query. Source: Barshan, Brunet and Dziugaite
2020, RelatIF, arXiv 2003.11630 (the loss-relative form); with the query scaled alike it is the
score of TrackStar (Chang et al. 2024, arXiv 2410.17413).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.influence.curvature import Curvature, CurvedQueries
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import rank_by_cosines


@register(
    "relatif",
    needs={"gradients", "queries"},
    says="The fisher method divided by what the sample does to the model at all.",
)
def relatif(
    request: Request,
    *,
    damping: float = 0.1,
    per_query: bool | None = None,
    block_rows: int = 8192,
) -> Ranking:
    """Mean `fisher` score over the root of the row's self-influence; options as for `fisher`."""
    positions = request.query_positions()
    curvature = Curvature(request, damping, block_rows)

    def weigh(codes: NDArray[np.float32], versions: NDArray[np.integer]) -> NDArray[np.float64]:
        own = np.empty(len(codes))
        for version in np.unique(versions).tolist():
            inside = versions == version
            rows = codes[inside]
            solved = curvature.solve(rows, version)
            # Both are scaled to length 1 alike, so that the row's length cancels.
            lengths = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
            own[inside] = np.einsum("ij,ij->i", solved, rows, dtype=np.float64) / np.where(
                lengths > 0, lengths, 1
            )
        return np.divide(1.0, np.sqrt(own), out=np.zeros(len(codes)), where=own > 0)

    return rank_by_cosines(
        request,
        mean_over_rows=True,
        per_query=per_query,
        block_rows=block_rows,
        positions=positions,
        queries=CurvedQueries(request, positions, curvature),
        weigh=weigh,
    )
