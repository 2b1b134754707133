"""Rankings of rows of text, whether they were trained on or not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, first_few
from influcoder_lightning.influence.aggregate import SampleRows
from influcoder_lightning.influence.ranking import Ranking


def rank_text(
    row_ids: IdArray,
    query_ids: IdArray,
    score_block: Callable[[slice], NDArray[np.float32]],
    *,
    block_rows: int,
) -> Ranking:
    """Mean over queries of the scores of blocks of rows; rows of one id are averaged.

    Args:
        row_ids: ids of the rows [R].
        query_ids: ids of the queries [M].
        score_block: rows of a slice -> scores float32 [b, M].
        block_rows: rows worked on at a time.

    Raises:
        RankingError: a score that is not finite.
    """
    if block_rows < 1:
        raise RankingError(f"block_rows={block_rows} must be at least 1")
    samples = SampleRows(row_ids)
    total = np.zeros((len(samples), len(query_ids)), dtype=np.float32)
    for start in range(0, len(row_ids), block_rows):
        block = slice(start, min(start + block_rows, len(row_ids)))
        samples.add(total, block, score_block(block))
    total /= samples.counts[:, None].astype(np.float32)
    scores = total.mean(axis=1, dtype=np.float64)
    if not np.isfinite(scores).all():
        bad = samples.sample_ids[~np.isfinite(scores)].tolist()
        raise RankingError(
            f"{len(bad)} samples get a score that is not finite: {first_few(bad)}; "
            "the encoder or the query codes are damaged"
        )
    return Ranking(
        sample_ids=samples.sample_ids,
        scores=scores,
        per_query=total.T,
        query_ids=query_ids,
        metadata={"n_rows": len(row_ids), "n_queries": len(query_ids)},
    )


def joined_text(row: TextRow) -> str:
    """Prompt, newline, response: what the word-count baselines read."""
    return f"{row['prompt']}\n{row['response']}"
