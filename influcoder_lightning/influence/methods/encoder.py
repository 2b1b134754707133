"""`encoder`: the text tower's guess of `cosine`, also for samples that were never trained on.

    score(z) = mean over queries q: E[code(z)] . code_end(q)

with the text tower's expected code of the sample, which is shorter the less the tower knows about
such texts, and the queries' gradient codes at the end of fit. Queries given as text go through the
text tower too. `Ranking.confidence` is the expected cosine between predicted and true code. Source:
Influcoder, arXiv 2606.13668; expectation and confidence: docs/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.rows import Row
from influcoder_lightning.errors import RankingError, StoreError
from influcoder_lightning.ids import IdArray
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.method import register
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.request import Request, TextEncoder
from influcoder_lightning.influence.row_scores import unit_rows
from influcoder_lightning.influence.text_scores import rank_text


@register(
    "encoder",
    needs={"text", "tower", "queries"},
    says="Scores from text alone: the text tower against the queries' codes.",
)
def encoder(request: Request, *, block_rows: int = 1024) -> Ranking:
    """Mean cosine of encoded text with the query codes; `block_rows` rows are encoded at a time.

    Raises:
        RankingError: no text, no queries, no text tower, or towers of different widths.
    """
    ids, rows = request.data_rows()
    tower, query_ids, queries = tower_and_queries(request)
    samples = SampleRows(ids)
    sure = np.zeros((len(samples), 1), dtype=np.float32)

    def score_block(block: slice) -> NDArray[np.float32]:
        scores, confidence = score_texts(tower, queries, rows[block])
        samples.add(sure, block, confidence[:, None])
        return scores

    ranking = rank_text(ids, query_ids, score_block, block_rows=block_rows)
    return replace(ranking, confidence=sure[:, 0] / samples.counts)


def tower_and_queries(request: Request) -> tuple[TextEncoder, IdArray, NDArray[np.float32]]:
    """The text tower of a store; ids [M] and unit codes [M, d] of the queries asked for.

    Raises:
        RankingError: no queries, or no text tower.
    """
    store = request.require_store()
    try:
        tower = store.text_tower()
    except StoreError as error:
        raise RankingError(
            f"method 'encoder' needs a text tower and the store has none ({error}); train one by "
            "giving text to the run, or use 'cosine' for samples that were trained on"
        ) from error
    if request.has_query_rows():
        query_ids, texts = request.query_rows()
        return tower, query_ids, unit_rows(np.asarray(tower.encode(texts)))
    positions = request.query_positions()
    codes = request.query_features(None, positions, end=True)
    return tower, store.query_ids[positions], unit_rows(codes)


def score_texts(
    tower: TextEncoder, queries: NDArray[np.float32], rows: Sequence[Row]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Expected cosines [n, M] of rows of text with unit query codes [M, d], and confidence [n].

    Raises:
        RankingError: the tower's codes are of another width.
    """
    codes, confidence = tower.expect(list(rows))
    if codes.shape != (len(rows), queries.shape[1]):
        raise RankingError(
            f"the text tower gave {codes.shape} for {len(rows)} rows, the query codes "
            f"have width {queries.shape[1]}; the tower and the store are of different runs"
        )
    return codes @ queries.T, confidence
