"""What came out: a ranking of all samples, and the rows of a few of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.formats import Row
from influcoder_lightning.data.row_files import Source
from influcoder_lightning.data.rows import RowSource
from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import SampleId
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.scoring.sealed_parts import Scores
from influcoder_lightning.scoring.survey import pick_rows

_BLOCK = 65_536  # ids looked at together: Python objects take much memory


class Sample(NamedTuple):
    """A row with what is known of its sample."""

    rank: int
    score: float
    confidence: float
    id: int | str
    row: Row
    place: int


class ScoredPool:
    """A pool whose rows are all scored; rows of one id are one sample, with their mean score.

    To make it and to write all files of the run takes, at its peak, about 120 bytes a row with
    integer ids and 290 with text ids of 17 characters (measured with a million), and nothing for
    the texts: they stay in the pool.

    Args:
        source: the pool, as `load_rows` takes it.
        scored: ids, scores and confidence of its rows.
        n_queries: how many queries the scores are the mean over.
    """

    def __init__(self, source: Source | RowSource, scored: Scores, n_queries: int) -> None:
        samples = SampleRows(scored.ids)
        scores = scored.scores
        confidence: NDArray[np.floating] = scored.confidence
        self.source, self._ids = source, scored.ids
        self._index: NDArray[np.int64] | None = None  # of each row's sample; None: the row's own
        if len(samples) < len(scored.ids):
            self._index = samples.index
            scores, confidence = samples.mean(scores), samples.mean(confidence)
        self.ranking = Ranking(
            samples.sample_ids,
            scores,
            method="encoder",
            confidence=confidence.astype(np.float64),
            metadata={"n_rows": len(scored.ids), "n_queries": n_queries},
        )

    def of_samples(self, values: list[str]) -> list[str]:
        """One value per row as one per sample, in the ranking's order; the last row's counts."""
        if self._index is None:
            return values
        found = [""] * len(self.ranking)
        for sample, value in zip(self._index.tolist(), values, strict=True):
            found[sample] = value
        return found

    def pick(self, ids: Iterable[SampleId]) -> list[Sample]:
        """The rows of some samples, best sample first; the pool is read through once more.

        Raises:
            DataError: the pool is not the one that was scored any more.
        """
        wanted, places = set(ids), dict[int, int | str]()
        for start in range(0, len(self._ids), _BLOCK):
            for place, name in enumerate(self._ids[start : start + _BLOCK].tolist(), start):
                if name in wanted:
                    places[place] = name
        found = []
        ranking = self.ranking
        assert ranking.confidence is not None
        for place, row in pick_rows(self.source, places).items():
            name = places[place]
            given = place if row.get("id") is None else row["id"]
            if str(given) != str(name):
                raise DataError(
                    f"{self.source} was changed: row {place} was {name!r}, now {given!r}"
                )
            at = place if self._index is None else int(self._index[place])
            score, confidence = float(ranking.scores[at]), float(ranking.confidence[at])
            found.append(Sample(int(ranking.ranks[at]), score, confidence, name, row, place))
        return sorted(found, key=lambda sample: sample.rank)
