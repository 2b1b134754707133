"""Groups of samples from which a model learns nearly the same, among the selected ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from influcoder_lightning.diversity import MAX_SIMILARITY
from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.row_scores import unit_rows

MOST = 20_000  # samples that are compared with each other
_BLOCK = 512


@dataclass(frozen=True)
class NearCopies:
    """Near-copies among k samples.

    Attributes:
        n: samples that were compared.
        groups: positions of the members of each group of two or more, best first; the largest
            group first.
        similarity: two samples are near-copies if the cosine of their codes is above this.
    """

    n: int
    groups: list[NDArray[np.int64]]
    similarity: float

    @property
    def in_groups(self) -> int:
        """Samples that have a near-copy."""
        return sum(len(group) for group in self.groups)

    @property
    def distinct(self) -> int:
        """Samples that would remain if one of each group stayed."""
        return self.n - self.in_groups + len(self.groups)


def find_near_copies(codes: NDArray[Any], similarity: float = MAX_SIMILARITY) -> NearCopies:
    """Connected groups of samples whose codes have a cosine above `similarity`.

    Two samples are in one group if a chain of near-copies leads from one to the other. All pairs
    are compared, a block at a time: n x n x d multiplications, and memory of 512 x n cosines.

    Args:
        codes: [n, d] of any length, best sample first, as `SampleCodes` gives them.
        similarity: as `max_similarity` of `selection.select(..., "diverse")`.

    Raises:
        RankingError: codes that are not finite, or more than `MOST`.
    """
    if len(codes) > MOST:
        raise RankingError(
            f"{len(codes)} samples to compare with each other; give the {MOST} best at most"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        unit = unit_rows(codes)
    if not np.isfinite(unit).all():
        raise RankingError("codes are not finite, so that they cannot be compared")
    n = len(unit)
    group: NDArray[np.int64] = np.arange(n)
    for start in range(0, n, _BLOCK):
        # Rounding may carry the cosine of equal codes beyond 1.
        cosines = np.minimum(unit[start : start + _BLOCK] @ unit[start:].T, 1)
        rows, columns = np.nonzero(cosines > similarity)
        # Between groups found so far, so that many equal samples do not make many pairs.
        pairs = np.unique(np.stack([group[start + rows], group[start + columns]]), axis=1)
        graph = coo_array((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), (n, n))
        group = connected_components(graph, directed=False)[1].astype(np.int64)[group]
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if n else []
    several = [some for some in members if len(some) > 1]
    return NearCopies(n, sorted(several, key=lambda some: (-len(some), some[0])), similarity)
