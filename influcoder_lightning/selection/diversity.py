"""Samples without near-copies: from best to worst, whoever is not too similar to one chosen before.

    z is chosen  <=>  max over chosen c of cos(code(z), code(c)) <= max_similarity

This is the filter of Liu et al. 2024 (DEITA, arXiv 2312.15685, "score-first, diversity-aware"),
here in the space of gradient codes: two samples are copies if a model learns the same from both. It
is the hard form of maximal marginal relevance (Carbonell and Goldstein 1998), and has no weight
that sets scores off against similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, first_few, id_keys
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.request import StoreReader
from influcoder_lightning.influence.row_scores import unit_rows

if TYPE_CHECKING:
    from influcoder_lightning.encoder.gradient_tower import GradientTower

MAX_SIMILARITY = 0.95
Fetch = Callable[[NDArray[np.int64]], NDArray[np.number]]
_FETCHED = 2**16  # candidates whose codes are asked for at a time
_COMPARED, _CHOSEN = 512, 2**14  # candidates, and chosen samples, that are compared at a time


def take_diverse(
    order: NDArray[np.int64], fetch: Fetch, k: int, max_similarity: float = MAX_SIMILARITY
) -> NDArray[np.int64]:
    """The first k of `order` that are no near-copies of one taken before.

    Time is O(k x d) for each candidate looked at, and only as many are looked at as it takes to
    find k. Memory is that of the codes of k chosen and of 65,536 candidates.

    Args:
        order: positions of the candidates [n], best first.
        fetch: positions [b] -> their codes [b, d], of any length; asked for the best candidates
            first, and for each once.
        k: how many, from 1.
        max_similarity: the largest cosine that two of them may have, from 0 to 1; at 1 all pass.

    Returns:
        k positions, best first.

    Raises:
        RankingError: k or `max_similarity` out of range, codes that are not finite, or fewer than
            k samples that differ so much.
    """
    _check(k, max_similarity, len(order))
    chosen: list[int] = []
    kept: NDArray[np.float32] | None = None
    for positions, codes in _blocks(order, fetch):
        if kept is None:
            kept = np.empty((k, codes.shape[1]), dtype=np.float32)
        near = _nearest(codes, kept[: len(chosen)])
        among = np.minimum(codes @ codes.T, 1)
        for place in np.flatnonzero(near <= max_similarity):
            if near[place] > max_similarity:  # of one that was taken from this very block
                continue
            kept[len(chosen)] = codes[place]
            chosen.append(int(positions[place]))
            if len(chosen) == k:
                return np.array(chosen, dtype=np.int64)
            np.maximum(near, among[place], out=near)
    raise RankingError(
        f"only {len(chosen)} of {len(order)} scored samples have no cosine above "
        f"max_similarity={max_similarity:g} with a better one, fewer than k={k}; raise "
        "max_similarity, or lower k"
    )


class TowerStore(StoreReader, Protocol):
    """What is read of a store: an `InfluenceStore`, or anything else with its methods."""

    path: Path

    def gradient_tower(self, version: int) -> GradientTower:
        """The tower whose last version is ``version``."""


class SampleCodes:
    """A code for each sample of a store: the mean of the unit codes of its rows, at norm 1.

    Codes of different tower versions do not compare. With P_v [d, D] the projection of version v,
    a code is taken to the last version's space as P_last P_v^T code: back to the sketch, as far as
    the code still holds it, and forth. What no tower can undo: rows of different windows were taken
    from different states of the model. In a run that moves fast (see `windows.drift`) two copies
    that were visited far apart look less alike than they are.

    Args:
        store: of a finished valuation.
        block_rows: rows read at a time.

    Example::

        select(ranking, "diverse", k=500, codes=SampleCodes(InfluenceStore("run")))
    """

    def __init__(self, store: TowerStore, block_rows: int = 8192) -> None:
        self._store, self._block_rows = store, block_rows
        self._rows = SampleRows(store.sample_ids)
        self._places = {key: place for place, key in enumerate(id_keys(self._rows.sample_ids))}
        self._maps: dict[int, NDArray[np.float32]] = {}

    def __call__(self, sample_ids: IdArray) -> NDArray[np.float32]:
        """Unit codes [n, d] of some samples, in one pass over the store.

        Raises:
            RankingError: a sample that has no row.
            StoreError: a tower version that is needed is missing.
        """
        known = self._places
        keys = id_keys(np.asarray(sample_ids))
        if unknown := [key for key in keys if key not in known]:
            raise RankingError(
                f"{len(unknown)} of {len(keys)} ranked samples have no code in {self._store.path}: "
                f"{first_few(unknown)}; give the store of the run that ranked them"
            )
        wanted = np.full(len(known), -1, dtype=np.int64)
        wanted[[known[key] for key in keys]] = np.arange(len(keys))
        last = int(self._store.column("tower_version").max())
        total: NDArray[np.float32] | None = None
        for rows, columns in self._store.blocks(["code", "tower_version"], self._block_rows):
            at = wanted[self._rows.index[rows]]
            inside = at >= 0
            codes = columns["code"][inside]
            if total is None:
                total = np.zeros((len(keys), columns["code"].shape[1]), dtype=np.float32)
            versions = columns["tower_version"][inside]
            for version in np.unique(versions).tolist():
                of = versions == version
                np.add.at(total, at[inside][of], self._moved(codes[of], version, last))
        assert total is not None  # SampleRows has refused an empty store
        return unit_rows(total)

    def _moved(self, codes: NDArray[np.floating], version: int, last: int) -> NDArray[np.float32]:
        """Unit codes [n, d] of one version in the space of the last."""
        if version == last:
            return unit_rows(codes)
        if version not in self._maps:
            there, here = (self._store.gradient_tower(v).versions[-1] for v in (last, version))
            self._maps[version] = (there @ here.T).numpy()
        return unit_rows(unit_rows(codes) @ self._maps[version].T)


def _check(k: int, max_similarity: float, n: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= n:
        raise RankingError(f"k={k!r} does not fit {n} scored samples; choose k from 1 to {n}")
    number = isinstance(max_similarity, int | float | np.number)
    if not number or isinstance(max_similarity, bool) or not 0 <= max_similarity <= 1:
        raise RankingError(
            f"max_similarity={max_similarity!r:.60} is no cosine from 0 to 1; near-copies lie "
            f"close to 1, the default is {MAX_SIMILARITY}"
        )


def _blocks(
    order: NDArray[np.int64], fetch: Fetch
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Positions and unit codes, a few hundred at a time."""
    for first in range(0, len(order), _FETCHED):
        positions = order[first : first + _FETCHED]
        codes = fetch(positions)
        for start in range(0, len(positions), _COMPARED):
            some = slice(start, start + _COMPARED)
            with np.errstate(invalid="ignore", over="ignore"):
                block = unit_rows(codes[some])
            if not np.isfinite(block).all():
                bad = positions[some][~np.isfinite(block).all(axis=1)].tolist()
                raise RankingError(f"codes are not finite at the positions {first_few(bad)}")
            yield positions[some], block


def _nearest(codes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest cosine of each unit code [b, d] with the others [m, d], at most 1; -1 for none.

    Rounding may carry the cosine of two equal codes beyond 1.
    """
    nearest = np.full(len(codes), -1, dtype=np.float32)
    for start in range(0, len(others), _CHOSEN):
        some = codes @ others[start : start + _CHOSEN].T
        np.maximum(nearest, some.max(axis=1), out=nearest)
    return np.minimum(nearest, 1)
