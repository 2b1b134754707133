"""Cosines of rows with queries, block by block, and their sums over the rows of a sample.

The mean over queries of (weighted) cosines is one inner product, with the mean of the (weighted)
unit codes of the queries; so what each query says of each sample is computed only where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, first_few
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request

# Codes [b, d] float32 as they were read and tower versions [b] -> factors [b] of what comes of the
# codes scaled to length 1.
RowWeights = Callable[[NDArray[np.float32], NDArray[np.integer]], NDArray[np.float64]]
PER_QUERY_BYTES = 2**28  # up to here `Ranking.per_query` is kept without being asked for
_KEPT_WINDOWS = 4


def unit_rows(codes: NDArray[np.number]) -> NDArray[np.float32]:
    """Rows in float32 with norm 1; float16 codes have about that, int8 any. Zero rows stay zero."""
    wide = codes.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.where(norms > 0, norms, 1)
    return wide


class WindowQueries:
    """Unit codes of the chosen queries at the start of a window, weighted.

    Args:
        request: what was asked.
        positions: of the queries, int64 [M].
        factors: columns of the queries whose product weighs them.
    """

    def __init__(
        self, request: Request, positions: NDArray[np.int64], factors: Sequence[str]
    ) -> None:
        self._request, self._positions, self._factors = request, positions, factors
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._means: dict[int, NDArray[np.float32]] = {}

    def each(self, window: int) -> NDArray[np.float32]:
        """float32 [M, d]; those of the last few windows stay in memory."""
        if window not in self._kept:
            while len(self._kept) >= _KEPT_WINDOWS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[window] = self.weighed(window)
        return self._kept[window]

    def weighed(self, window: int, end: bool = False) -> NDArray[np.float32]:
        """float32 [M, d] of one take, as `Request.query_features`."""
        codes = unit_rows(self._request.query_features(window, self._positions, end=end))
        if self._factors:
            records = self._request.require_store().query_records(window, end=end)
            for name in self._factors:
                column = records[name].to_numpy(dtype=np.float32)
                codes *= column[self._positions, None]
        return codes

    def mean(self, window: int) -> NDArray[np.float32]:
        """Mean over the queries, float32 [d]."""
        if window not in self._means:
            mean = self.each(window).mean(axis=0, dtype=np.float64)
            self._means[window] = mean.astype(np.float32)
        return self._means[window]


def rank_by_cosines(
    request: Request,
    *,
    row_factors: Sequence[str] = (),
    query_factors: Sequence[str] = (),
    mean_over_rows: bool,
    per_query: bool | None,
    block_rows: int,
    code: str = "code",
    positions: NDArray[np.int64] | None = None,
    queries: WindowQueries | None = None,
    weigh: RowWeights | None = None,
) -> Ranking:
    """Rank by (weighted) cosines of each row with the queries of the row's own window.

    Memory for R rows of N samples with integer ids: at most about 70 bytes x R, and `block_rows` x
    d x 6 bytes; with `per_query` also N x M x 4 bytes and `block_rows` x M x 4.

    Args:
        request: what was asked.
        row_factors: columns of the rows whose product weighs them.
        query_factors: columns of the queries whose product weighs them.
        mean_over_rows: mean over the rows of a sample, else their sum.
        per_query: keep the scores of each query, float32 [M, N]; None: if they take no more than
            `PER_QUERY_BYTES`. The scores are the same to the last bit.
        block_rows: rows worked on at a time.
        code: column of the rows' codes.
        positions: of the queries, int64 [M]; None: those that were asked for.
        queries: what takes the place of the queries' codes; None: these themselves.
        weigh: further factors of rows, from their codes.

    Raises:
        RankingError: no queries, or a score that is not finite.
    """
    if block_rows < 1:
        raise RankingError(f"block_rows={block_rows} must be at least 1")
    store = request.require_store()
    positions = request.query_positions() if positions is None else positions
    n_rows = len(store.sample_ids)
    if queries is None:
        queries = WindowQueries(request, positions, query_factors)
    ids, scores, matrix = _summed(
        request,
        queries,
        len(positions),
        code,
        row_factors,
        weigh,
        mean_over_rows,
        per_query,
        block_rows,
    )
    if not np.isfinite(scores).all():
        bad = ids[~np.isfinite(scores)].tolist()
        raise RankingError(
            f"{len(bad)} samples get a score that is not finite: {first_few(bad)}; their codes or "
            "gradient norms in the store are not finite, look for overflow in that training"
        )
    return Ranking(
        sample_ids=ids,
        scores=scores,
        per_query=None if matrix is None else matrix.T,
        query_ids=store.query_ids[positions],
        metadata={
            "n_rows": n_rows,
            "n_queries": len(positions),
            "per_query_kept": matrix is not None,
        },
    )


def _summed(
    request: Request,
    queries: WindowQueries,
    n_queries: int,
    code: str,
    row_factors: Sequence[str],
    weigh: RowWeights | None,
    mean_over_rows: bool,
    per_query: bool | None,
    block_rows: int,
) -> tuple[IdArray, NDArray[np.float64], NDArray[np.float32] | None]:
    """Sample ids [N], scores [N] and, where kept, the scores of each query [N, M]."""
    store = request.require_store()
    samples = SampleRows(store.sample_ids)
    if per_query is None:
        per_query = 4 * len(samples) * n_queries <= PER_QUERY_BYTES
    matrix = np.zeros((len(samples), n_queries), dtype=np.float32) if per_query else None
    total = np.zeros(len(samples))
    wide = np.empty((0, 0), dtype=np.float32)
    names = ["window", *row_factors, *(() if weigh is None else ["tower_version"])]
    for block, columns in store.blocks([code, *dict.fromkeys(names)], block_rows):
        codes = columns[code]
        if wide.size < codes.size:  # made once: fresh memory for every block costs time
            wide = np.empty(codes.shape, dtype=np.float32)
        wide = wide[: len(codes)]
        np.copyto(wide, codes)
        # Half precision may hold inf and NaN; they end in a score that is reported.
        with np.errstate(invalid="ignore", over="ignore"):
            factors = inverse_norms(wide)
            for name in row_factors:
                factors *= columns[name]
            if weigh is not None:
                factors *= weigh(wide, columns["tower_version"])
            scores = np.empty(len(codes))
            each = None if matrix is None else np.empty((len(codes), n_queries), np.float32)
            for window, inside in _by_window(columns["window"]):
                some = wide[inside]
                # Not `@`: a row's score must not depend on the rows beside it, and BLAS threads
                # do not pay here.
                scores[inside] = np.einsum("ij,j->i", some, queries.mean(window))
                if each is not None:
                    each[inside] = some @ queries.each(window).T
            np.add.at(total, samples.index[block], scores * factors)
            if matrix is not None and each is not None:
                each *= factors[:, None].astype(np.float32)
                samples.add(matrix, block, each)
    if mean_over_rows:
        total /= samples.counts
        if matrix is not None:
            matrix /= samples.counts[:, None].astype(np.float32)
    return samples.sample_ids, total, matrix


def inverse_norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """One over the norm of each row [n, d], float64 [n]; 0 for a zero row."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows), dtype=np.float64)
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def _by_window(windows: NDArray[np.integer]) -> Iterator[tuple[int, slice | NDArray[np.int64]]]:
    """Each window of a block, and which rows are in it: a slice (no copy) where it is the only one.

    Rows come in the order of training, so most blocks have one window.
    """
    if (windows == windows[0]).all():
        yield windows[0].item(), slice(None)
        return
    for window in np.unique(windows).tolist():
        yield window, np.flatnonzero(windows == window)
