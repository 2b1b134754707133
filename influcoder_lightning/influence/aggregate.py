"""From the rows of a store (a sample at a step) to one number per sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, has_repeats


class SampleRows:
    """Which rows belong to which sample; samples in order of their first row.

    Args:
        row_ids: id of each row [R], int64 or object array of str.

    Attributes:
        sample_ids: unique ids [N].
        index: position in `sample_ids` of each row's sample, int64 [R].
        counts: rows of each sample, int64 [N].

    Example:
        >>> rows = SampleRows(np.array([7, 3, 7]))
        >>> rows.sample_ids.tolist(), rows.counts.tolist()
        ([7, 3], [2, 1])
        >>> rows.mean(np.array([1.0, 5.0, 3.0])).tolist()
        [2.0, 5.0]
    """

    def __init__(self, row_ids: IdArray) -> None:
        if len(row_ids) == 0:
            raise RankingError("there are no rows to rank; was anything captured?")
        row_ids = np.asarray(row_ids)
        numbered = _numbered if row_ids.dtype.kind == "i" else _numbered_text
        self.index: NDArray[np.int64]
        self.sample_ids: IdArray
        self.index, self.sample_ids = numbered(row_ids)
        self.counts: NDArray[np.int64] = np.bincount(self.index, minlength=len(self.sample_ids))

    def __len__(self) -> int:
        return len(self.sample_ids)

    def mean(
        self, values: NDArray[np.number], keep: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Mean of `values` [R] over the rows of each sample, float64 [N].

        Only rows where `keep` [R] is true count; a sample without such a row gets NaN.
        """
        index = self.index if keep is None else self.index[keep]
        values = np.asarray(values, dtype=np.float64)
        values = values if keep is None else values[keep]
        counts = np.bincount(index, minlength=len(self))
        sums = np.bincount(index, weights=values, minlength=len(self))
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def add(self, total: NDArray[np.floating], rows: slice, values: NDArray[np.floating]) -> None:
        """Add `values` [b, ...] of a slice of rows to `total` [N, ...] at the rows' samples."""
        index = self.index[rows]
        if not has_repeats(index):
            total[index] += values
            return
        order = np.argsort(index, kind="stable")
        samples, starts = np.unique(index[order], return_index=True)
        # A sorted segment sum: np.add.at would be many times slower on wide rows.
        total[samples] += np.add.reduceat(values[order], starts, axis=0)


def _numbered(ids: IdArray) -> tuple[NDArray[np.int64], IdArray]:
    """For integers [R]: place of each among the unique ones, and these in order of appearance.

    By sorting: a hash table of many millions would take several times the memory.
    """
    if not has_repeats(ids):
        return np.arange(len(ids), dtype=np.int64), ids
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    del ordered
    first_rows = order[starts]
    is_first = np.zeros(len(ids), dtype=bool)
    is_first[first_rows] = True
    place = np.cumsum(is_first) - 1
    index = np.empty(len(ids), dtype=np.int64)
    index[order] = np.repeat(place[first_rows], np.diff(starts, append=len(ids)))
    return index, ids[is_first]


def _numbered_text(ids: IdArray) -> tuple[NDArray[np.int64], IdArray]:
    """The same for text."""
    import pandas as pd

    index, unique = pd.factorize(ids)
    if (index < 0).any():
        row = int(np.flatnonzero(index < 0)[0])
        raise RankingError(f"row {row} has no sample id; ids are integers or strings")
    return np.asarray(index, dtype=np.int64), np.asarray(unique)
