"""Blocks of row-by-query cosines, and their sums over the rows of a sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ids import first_few
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request

# Row numbers [b] of one window, and that window -> factor of each (row, query) [b, M].
Weights = Callable[[NDArray[np.int64], int], NDArray[np.float32]]

_KEPT_WINDOWS = 4


def unit_rows(codes: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows in float32 with norm 1; float16 codes are only about normalised. Zero rows stay zero."""
    wide = codes.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.where(norms > 0, norms, 1)
    return wide


class WindowQueries:
    """Unit codes [M, d] of the chosen queries at the start of a window; the last few are kept."""

    def __init__(self, request: Request, positions: NDArray[np.int64]) -> None:
        self._request = request
        self._positions = positions
        self._kept: dict[int, NDArray[np.float32]] = {}

    def __call__(self, window: int) -> NDArray[np.float32]:
        """Unit codes float32 [M, d] of one window."""
        if window not in self._kept:
            while len(self._kept) >= _KEPT_WINDOWS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[window] = unit_rows(self._request.query_features(window, self._positions))
        return self._kept[window]


def rank_by_cosines(
    request: Request, weights: Weights | None, *, mean_over_rows: bool, block_rows: int
) -> Ranking:
    """Rank by (weighted) cosines of each row with the queries of the row's own window.

    Memory beyond the result [N, M] in float32 is `block_rows` x (d + M) numbers.

    Args:
        request: what was asked.
        weights: factor for each (row, query), or None for 1.
        mean_over_rows: mean over the rows of a sample, else their sum.
        block_rows: rows worked on at a time.

    Raises:
        RankingError: no queries, or a score that is not finite.
    """
    if block_rows < 1:
        raise RankingError(f"block_rows={block_rows} must be at least 1")
    store = request.require_store()
    positions = request.query_positions()
    row_ids = store.sample_ids
    samples = SampleRows(row_ids)
    windows = store.records()["window"].to_numpy()
    queries = WindowQueries(request, positions)
    total = np.zeros((len(samples), len(positions)), dtype=np.float32)
    for start in range(0, len(row_ids), block_rows):
        block = slice(start, min(start + block_rows, len(row_ids)))
        codes = unit_rows(store.codes(block))
        values = np.empty((len(codes), len(positions)), dtype=np.float32)
        for window in np.unique(windows[block]).tolist():
            inside = np.flatnonzero(windows[block] == window)
            cosines = codes[inside] @ queries(window).T
            values[inside] = (
                cosines if weights is None else cosines * weights(inside + start, window)
            )
        samples.add(total, block, values)
    if mean_over_rows:
        total /= samples.counts[:, None].astype(np.float32)
    scores = total.mean(axis=1, dtype=np.float64)
    if not np.isfinite(scores).all():
        bad = samples.sample_ids[~np.isfinite(scores)].tolist()
        raise RankingError(
            f"{len(bad)} samples get a score that is not finite: {first_few(bad)}; their codes or "
            "gradient norms in the store are not finite, look for overflow in that training"
        )
    return Ranking(
        sample_ids=samples.sample_ids,
        scores=scores,
        per_query=total.T,
        query_ids=store.query_ids[positions],
        metadata={"n_rows": len(row_ids), "n_queries": len(positions)},
    )
