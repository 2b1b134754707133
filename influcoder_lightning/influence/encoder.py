"""`encoder`: the text tower's guess of `cosine`, also for samples that were never trained on.

    score(z) = mean over queries q: E[code(z)] . code_end(q)

with the text tower's expected code of the sample, which is shorter the less the tower knows about
such texts, and the queries' gradient codes at the end of fit. Queries given as text go through the
text tower too. `Ranking.confidence` is the expected cosine between predicted and true code. Source:
Influcoder, arXiv 2606.13668; expectation and confidence: docs/method.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError, StoreError
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import register
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence.row_scores import unit_rows
from influcoder_lightning.influence.text_scores import rank_text


@register("encoder")
def encoder(request: Request, *, block_rows: int = 1024) -> Ranking:
    """Mean cosine of encoded text with the query codes; `block_rows` rows are encoded at a time.

    Raises:
        RankingError: no text, no queries, no text tower, or towers of different widths.
    """
    ids, rows = request.data_rows()
    store = request.require_store()
    try:
        tower = store.text_tower()
    except StoreError as error:
        raise RankingError(
            f"method 'encoder' needs a text tower and the store has none ({error}); train one by "
            "giving text to the run, or use 'cosine' for samples that were trained on"
        ) from error
    if request.has_query_rows():
        query_ids, queries = request.query_rows()
        features = unit_rows(np.asarray(tower.encode(queries)))
    else:
        positions = request.query_positions()
        query_ids = store.query_ids[positions]
        features = unit_rows(request.query_features(None, positions, end=True))

    samples = SampleRows(ids)
    sure = np.zeros((len(samples), 1), dtype=np.float32)

    def score_block(block: slice) -> NDArray[np.float32]:
        codes, confidence = tower.expect(rows[block])
        samples.add(sure, block, confidence[:, None])
        if codes.shape != (len(rows[block]), features.shape[1]):
            raise RankingError(
                f"the text tower gave {codes.shape} for {len(rows[block])} rows, the query codes "
                f"have width {features.shape[1]}; the tower and the store are of different runs"
            )
        return codes @ features.T

    ranking = rank_text(ids, query_ids, score_block, block_rows=block_rows)
    return replace(ranking, confidence=sure[:, 0] / samples.counts)
