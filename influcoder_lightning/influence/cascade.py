"""Exact gradients for the few samples where they matter, the encoder's scores for the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import IdArray, id_keys
from influcoder_lightning.influence.ranking import Ranking


def choose_for_exact(
    scores: NDArray[np.floating],
    confidence: NDArray[np.floating],
    m: int,
    top_share: float = 0.5,
) -> NDArray[np.int64]:
    """Positions [m] of the samples to compute exactly: the top ones and the uncertain ones.

    Args:
        scores: [N] expected scores.
        confidence: [N] in [0, 1]; one minus its square is the part of a code that is unknown.
        m: how many.
        top_share: share of them taken from the top of the scores; the others have the largest
            expected score plus one spread, ``score + sqrt(1 - confidence^2) x typical |score|``.

    Raises:
        RankingError: `m` does not fit the number of samples.
    """
    if not 0 <= m <= len(scores):
        raise RankingError(f"m={m} does not fit {len(scores)} samples")
    scores = np.asarray(scores, dtype=np.float64)
    first = np.argsort(-scores, kind="stable")[: round(top_share * m)]
    unknown = np.sqrt(np.clip(1 - np.square(np.asarray(confidence, dtype=np.float64)), 0, 1))
    optimistic = scores + unknown * np.sqrt(np.mean(np.square(scores)))
    optimistic[first] = np.inf
    return np.argsort(-optimistic, kind="stable")[:m]


def merge_exact(ranking: Ranking, exact: Ranking) -> Ranking:
    """The ranking with the scores of `exact` in place of its own where there are any.

    Both must be on one scale, for instance `encoder` and `cosine` of one store.

    Raises:
        RankingError: `exact` scores samples that the ranking does not have.
    """
    place = {key: i for i, key in enumerate(id_keys(ranking.sample_ids))}
    positions = _places(place, exact.sample_ids)
    scores = ranking.scores.copy()
    scores[positions] = exact.scores
    sure = None
    if ranking.confidence is not None:
        sure = ranking.confidence.copy()
        sure[positions] = 1.0
    return replace(ranking, scores=scores, per_query=None, query_ids=None, confidence=sure)


def _places(place: dict[str, int], ids: IdArray) -> list[int]:
    keys = id_keys(ids)
    if unknown := [key for key in keys if key not in place]:
        raise RankingError(f"exact scores of samples that are not ranked: {unknown[:5]}")
    return [place[key] for key in keys]
