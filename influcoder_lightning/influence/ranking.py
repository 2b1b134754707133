"""The result of valuing a pool: one score and one rank for each sample."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import (
    IdArray,
    SampleId,
    as_id_array,
    first_few,
    has_repeats,
    id_keys,
    repeated,
)
from influcoder_lightning.influence import ranking_file

if TYPE_CHECKING:
    import pandas as pd

_T = TypeVar("_T", bound=np.generic)


def _numbers(values: object, what: str) -> NDArray[np.float64]:
    """A copy as float64; a complex number would lose half of itself without a word."""
    try:
        array = np.asarray(values)
        if array.dtype.kind != "c":
            return np.array(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise RankingError(f"{what} must be numbers, one per sample: {error}") from error
    raise RankingError(f"{what} must be real numbers, one per sample, not {array.dtype}")


def _frozen(array: NDArray[_T]) -> NDArray[_T]:
    """A read-only view; the caller's own array stays writable."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """Scores of N samples; higher is better. Arrays are read-only.

    Attributes:
        sample_ids: unique ids [N], int64 or object array of str.
        scores: float64 [N]; NaN where a sample could not be scored.
        per_query: optional float [M, N], the scores before the mean over queries.
        query_ids: optional ids [M] of the rows of `per_query`.
        method: name of the method that made it.
        confidence: optional float [N] in [0, 1], how sure the method is of each score.
        metadata: provenance (options, store, counts).
        ranks: int64 [N], 1 = best; ties by position, samples without a score last.

    Raises:
        RankingError: no samples, repeated ids, or shapes that do not fit together.

    Example:
        >>> ranking = Ranking(["a", "b", "c"], [0.1, 0.9, 0.5], method="cosine")
        >>> ranking
        Ranking(method='cosine', n=3, best=['b', 'c', 'a'])
        >>> ranking.ranks.tolist()
        [3, 1, 2]
        >>> ranking.top_k(2), ranking.bottom_k(1)
        (['b', 'c'], ['a'])
        >>> ranking.align(["c", "b", "a"]).scores.tolist()
        [0.5, 0.9, 0.1]
    """

    sample_ids: IdArray
    scores: NDArray[np.float64]
    per_query: NDArray[np.floating] | None = None
    query_ids: IdArray | None = None
    method: str = ""
    metadata: dict[str, object] = field(default_factory=dict)
    confidence: NDArray[np.float64] | None = None
    ranks: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        ids = as_id_array(self.sample_ids)
        scores = _numbers(self.scores, "scores")
        if scores.ndim != 1 or len(ids) != len(scores):
            raise RankingError(
                f"{len(ids)} sample ids and scores of shape {scores.shape} do not fit; "
                "give one score per sample"
            )
        if len(ids) == 0:
            raise RankingError("a ranking needs at least one sample; the pool is empty")
        integers = ids.dtype.kind == "i"
        if (not integers or has_repeats(ids)) and (again := repeated(id_keys(ids))):
            raise RankingError(
                f"{len(again)} sample ids are repeated: {first_few(again)}; "
                "a ranking has one score per id, combine the rows of a sample first"
            )
        ranks = np.empty(len(ids), dtype=np.int64)
        # Stable and descending: ties keep their order, NaN sorts last.
        ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(ids) + 1)
        self._set("sample_ids", _frozen(ids))
        self._set("scores", _frozen(scores))
        self._set("ranks", _frozen(ranks))
        self._set("metadata", dict(self.metadata))
        if self.confidence is not None:
            confidence = _numbers(self.confidence, "confidence")
            if confidence.shape != scores.shape:
                raise RankingError(
                    f"confidence has shape {confidence.shape}; give one number per sample, "
                    f"{scores.shape}"
                )
            self._set("confidence", _frozen(confidence))
        self._check_per_query()

    def _check_per_query(self) -> None:
        if self.query_ids is not None:
            self._set("query_ids", _frozen(as_id_array(self.query_ids)))
        if self.per_query is None:
            return
        per_query = np.asarray(self.per_query)
        rows = per_query.shape[0] if self.query_ids is None else len(self.query_ids)
        if per_query.dtype.kind != "f" or per_query.shape != (rows, len(self)):
            raise RankingError(
                f"per_query is {per_query.dtype} of shape {per_query.shape}; "
                f"expected floats [queries, samples] = [{rows}, {len(self)}]"
            )
        self._set("per_query", _frozen(per_query))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __repr__(self) -> str:
        best = self.sample_ids[self._best(3)].tolist()
        return f"Ranking(method={self.method!r}, n={len(self)}, best={best!r})"

    @property
    def order(self) -> NDArray[np.int64]:
        """Positions of the samples from best to worst, int64 [N]."""
        order = np.empty(len(self), dtype=np.int64)
        order[self.ranks - 1] = np.arange(len(self))
        return order

    @property
    def n_scored(self) -> int:
        """How many samples have a score that is not NaN."""
        return int(np.count_nonzero(~np.isnan(self.scores)))

    def top_k(self, k: int) -> list[SampleId]:
        """Ids of the `k` best samples, best first.

        Raises:
            RankingError: `k` is below 1 or above the number of scored samples.
        """
        self._check_k(k)
        return self.sample_ids[self._best(k)].tolist()

    def bottom_k(self, k: int) -> list[SampleId]:
        """Ids of the `k` worst samples, worst first. A sample without a score is not among them.

        Raises:
            RankingError: `k` is below 1 or above the number of scored samples.
        """
        self._check_k(k)
        return self.sample_ids[self.order[: self.n_scored][::-1][:k]].tolist()

    def _best(self, k: int) -> NDArray[np.int64]:
        """Positions of the `k` best samples, best first, without ordering all of them."""
        best = np.flatnonzero(self.ranks <= k)
        return best[np.argsort(self.ranks[best])]

    def _check_k(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise RankingError(f"k={k!r} is not an integer; give 1 to {len(self)}")
        if not 1 <= k <= self.n_scored:
            without = len(self) - self.n_scored
            note = f", of which {without} have no score (NaN)" if without else ""
            raise RankingError(
                f"k={k} does not fit a ranking of {len(self)} samples{note}; "
                f"choose k from 1 to {self.n_scored}"
            )

    def to_frame(self) -> pd.DataFrame:
        """DataFrame [N] of sample_id, score, rank (and confidence, if any), best first."""
        import pandas as pd

        order = self.order
        columns: dict[str, NDArray[np.generic]] = {
            "sample_id": self.sample_ids[order],
            "score": self.scores[order],
            "rank": self.ranks[order],
        }
        if self.confidence is not None:
            columns["confidence"] = self.confidence[order]
        return pd.DataFrame(columns)

    def align(self, pool_ids: Iterable[object]) -> Ranking:
        """The same scores in the order of `pool_ids`, with the ids as the pool writes them.

        Ids are compared by their text. Exact ties are ranked by the new position.

        Raises:
            RankingError: the pool repeats an id, lacks one of the ranking, or has an unknown one.
        """
        pool = as_id_array(pool_ids)
        wanted = id_keys(pool)
        if again := repeated(wanted):
            raise RankingError(
                f"the pool has {len(again)} repeated ids: {first_few(again)}; "
                "give each sample an id of its own"
            )
        position = {key: place for place, key in enumerate(id_keys(self.sample_ids))}
        unscored = [key for key in wanted if key not in position]
        pool_keys = set(wanted)
        unknown = [key for key in position if key not in pool_keys]
        if unscored or unknown:
            raise RankingError(
                f"the ranking ({len(self)} samples) and the pool ({len(wanted)}) differ: "
                f"{len(unscored)} pool ids missing from the ranking {first_few(unscored)}, "
                f"{len(unknown)} ranked ids unknown to the pool {first_few(unknown)}; "
                "use the pool that was valued"
            )
        return self._take(np.array([position[key] for key in wanted]), pool)

    def finite(self) -> Ranking:
        """The samples whose score is finite, in the same order.

        Raises:
            RankingError: there is none.
        """
        keep = np.flatnonzero(np.isfinite(self.scores))
        return self._take(keep, self.sample_ids[keep])

    def described(self, method: str, metadata: dict[str, object]) -> Ranking:
        """The same ranking under another method name and provenance; nothing is sorted again."""
        twin = copy.copy(self)
        twin._set("method", method)
        twin._set("metadata", dict(metadata))
        return twin

    def _take(self, positions: NDArray[np.int64], ids: IdArray) -> Ranking:
        per_query = None if self.per_query is None else self.per_query[:, positions]
        confidence = None if self.confidence is None else self.confidence[positions]
        return replace(
            self,
            sample_ids=ids,
            scores=self.scores[positions],
            per_query=per_query,
            confidence=confidence,
        )

    def save(self, path: str | os.PathLike[str], per_query: bool = False) -> None:
        """Write CSV `sample_id,score,rank`, best first; see `ranking_file.save`."""
        ranking_file.save(self, path, per_query=per_query)

    @classmethod
    def load(cls, path: str | os.PathLike[str], per_query: bool = False) -> Ranking:
        """Read what `save` wrote, or any CSV with sample_id and score; see `ranking_file.load`."""
        found = ranking_file.load(path, per_query=per_query)
        return cls(**found._asdict(), method="file", metadata={"path": str(path)})
