"""Curvature of a run in code space, from the rows themselves: the Fisher of unit gradients.

    F_v = mean over the rows t of tower version v: c_t c_t^T        [d, d]

where c_t is the unit gradient of row t within the code space (code times length). It is the
empirical Fisher (Martens 2014, arXiv 1412.1193; as curvature for influence: Park et al. 2023, TRAK,
arXiv 2303.14186) of gradients scaled to length 1, since a few large gradients would else be all of
it. The directions of the code space are those that hold most of the gradients, so that F needs no
factorisation, and inverting it takes a moment.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import WindowQueries, inverse_norms


class Curvature:
    """F of each tower version, damped and inverted.

    Memory: 12 x d x d bytes for each version, and `block_rows` x d x 6 bytes while it is gathered.

    Args:
        request: its store has the lengths of the codes.
        damping: added to F's diagonal, as a share of its largest eigenvalue.
        block_rows: rows worked on at a time.

    Raises:
        RankingError: the damping is not positive, or the store lacks the lengths of the codes.
    """

    def __init__(self, request: Request, damping: float, block_rows: int) -> None:
        if not damping > 0:
            raise RankingError(f"damping={damping!r} must be positive: F may have no inverse")
        if block_rows < 1:
            raise RankingError(f"block_rows={block_rows} must be at least 1")
        store = request.require_store()
        if "code_length" not in store.column_names():
            raise RankingError(
                f"method {request.method!r} needs the lengths of the codes, which this store does "
                "not have; value again, or use 'cosine'"
            )
        sums: dict[int, NDArray[np.float64]] = {}
        counts: dict[int, int] = {}
        names = ["code", "code_length", "tower_version"]
        for _, columns in store.blocks(names, block_rows):
            rows = columns["code"].astype(np.float32)
            rows *= (columns["code_length"] * inverse_norms(rows)).astype(np.float32)[:, None]
            for version in np.unique(columns["tower_version"]).tolist():
                some = rows[columns["tower_version"] == version]
                sums[version] = sums.get(version, 0.0) + (some.T @ some).astype(np.float64)
                counts[version] = counts.get(version, 0) + len(some)
        self._inverses = {
            version: _damped_inverse(total / counts[version], damping)
            for version, total in sums.items()
        }

    def solve(self, rows: NDArray[np.float32], version: int) -> NDArray[np.float32]:
        """``(F_v + damping)^-1`` applied to each of the rows [n, d], float32 [n, d].

        F is scaled so that its largest eigenvalue is 1: scores of different versions are of one
        size, and the least that a direction is weighed with is ``1 / (1 + damping)``.
        """
        if version not in self._inverses:  # no row was encoded by it
            return rows
        return rows @ self._inverses[version]


class CurvedQueries(WindowQueries):
    """Queries of a window with the curvature taken off; the mean of both ends of the window.

    The end of a window is the start of the next one, or of the run's end; where another tower
    version encodes it, only the start counts: codes of two versions do not compare.
    """

    def __init__(
        self, request: Request, positions: NDArray[np.int64], curvature: Curvature
    ) -> None:
        super().__init__(request, positions, ["code_length"])
        self._curvature = curvature
        self._windows = sorted(set(request.require_store().column("window").tolist()))
        self._curved: dict[int, NDArray[np.float32]] = {}

    def each(self, window: int) -> NDArray[np.float32]:
        """float32 [M, d]."""
        if window not in self._curved:
            self._curved.clear()
            version, queries = self._take(window, end=False)
            ends = [queries]
            after = self._windows.index(window) + 1
            last = after == len(self._windows)
            end_version, queries = self._take(window if last else self._windows[after], end=last)
            if end_version == version:
                ends.append(queries)
            mean = np.asarray(np.mean(ends, axis=0), dtype=np.float32)
            self._curved[window] = self._curvature.solve(mean, version)
        return self._curved[window]

    def _take(self, window: int, end: bool) -> tuple[int, NDArray[np.float32]]:
        store = self._request.require_store()
        version = int(store.query_records(window, end=end)["tower_version"].iloc[0])
        return version, self.weighed(window, end)


def _damped_inverse(fisher: NDArray[np.float64], damping: float) -> NDArray[np.float32]:
    values, vectors = np.linalg.eigh(fisher)
    largest = max(float(values[-1]), np.finfo(np.float64).tiny)
    weights = 1 / (np.maximum(values, 0) / largest + damping)
    return np.asarray((vectors * weights) @ vectors.T, dtype=np.float32)
