"""Rows of one kind (pool, query or eval) with their ids and tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset, Subset

from influcoder_lightning.data.formats import Row
from influcoder_lightning.data.rows import fingerprint_line
from influcoder_lightning.data.tokenization import TruncationReport
from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import SampleId, as_id_array, first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking


@dataclass(frozen=True)
class Split:
    """Rows with their ids and tokens; rows without a response token are left out.

    Attributes:
        rows: as everything behind the readers knows them.
        ids: one per row.
        dataset: their tokens.
        places: of the rows in their source.
        n_trained: tokens of each row that have a loss.
        report: what was cut, so that rows fit; None: they are not tokenised.
        conversations: id of the conversation that a row is a turn of; None: rows are whole.
        conversation_rows: the whole row that it is a turn of.
    """

    rows: list[Row]
    ids: list[SampleId]
    dataset: Dataset
    places: Sequence[int]
    n_trained: Sequence[int]
    report: TruncationReport | None
    conversations: list[SampleId] | None = None
    conversation_rows: list[Row] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, ids: Iterable[object]) -> Dataset:
        """The tokenised rows of some ids; all rows of an id that several share.

        Raises:
            RankingError: an id that no row has.
        """
        wanted = {str(sample_id) for sample_id in ids}
        if unknown := wanted - {str(sample_id) for sample_id in self.ids}:
            raise RankingError(f"no row of the pool has the id {first_few(sorted(unknown))}.")
        return Subset(self.dataset, [i for i, name in enumerate(self.ids) if str(name) in wanted])

    def identified(self) -> list[Row]:
        """The rows, each with its id."""
        return [{**row, "id": name} for row, name in zip(self.rows, self.ids, strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 of ids, prompts and responses (or messages) in their order."""
        digest = hashlib.sha256()
        for row, name in zip(self.rows, self.ids, strict=True):
            digest.update(fingerprint_line(row, name))
        return digest.hexdigest()

    def whole(self) -> Split:
        """The same tokens under the ids of their conversations, which several share.

        Its rows have all that was said, too.
        """
        if self.conversations is None:
            return self
        rows = self.conversation_rows or self.rows
        return replace(self, rows=rows, ids=self.conversations, conversations=None)

    def of_conversations(self, ranking: Ranking) -> Ranking:
        """The ranking of a pool of turns as one of its conversations.

        A conversation's score is the mean over its turns, weighted by their tokens with a loss;
        turns without a score are left out, NaN where there are no others. Queries likewise.
        """
        if self.conversations is None:
            return ranking
        place = {key: at for at, key in enumerate(id_keys(as_id_array(self.ids)))}
        rows = np.array([place[key] for key in id_keys(ranking.sample_ids)])
        names = [self.conversations[row] for row in rows]
        order = {key: at for at, key in enumerate(dict.fromkeys(map(str, names)))}
        group = np.array([order[str(name)] for name in names])
        first = np.unique(group, return_index=True)[1]
        weights = np.asarray(self.n_trained, dtype=np.float64)[rows]

        def mean(values: np.ndarray) -> np.ndarray:
            known = ~np.isnan(values)
            sums = np.bincount(group, np.where(known, values, 0) * weights, len(order))
            totals = np.bincount(group, known * weights, len(order))
            return np.divide(sums, totals, out=np.full(len(order), np.nan), where=totals > 0)

        per_query = None
        if ranking.per_query is not None:
            per_query = np.stack([mean(row) for row in ranking.per_query])
        return replace(
            ranking,
            sample_ids=as_id_array([names[at] for at in first]),
            scores=mean(ranking.scores),
            per_query=per_query,
            confidence=None if ranking.confidence is None else mean(ranking.confidence),
        )
