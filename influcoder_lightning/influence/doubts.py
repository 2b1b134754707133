"""What a ranking does not know: samples of equal score, and scores that it is not sure of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.influence.ranking import Ranking

SURE = 0.5  # confidence from which a score counts as sure
FEW = 0.5  # share of sure scores below which it is said


def ties(scores: Sequence[float] | NDArray[np.float64]) -> str | None:
    """A sentence on samples of equal score; None where all differ. NaN: there is no score.

    Example:
        >>> print(ties([2.0, 2.0]))
        All 2 samples have the same score: their order says nothing.
    """
    values, counts = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    values, counts = values[~np.isnan(values)], counts[~np.isnan(values)]
    n = int(counts.sum())
    shared = int(counts[counts > 1].sum())
    if not shared:
        return None
    if len(values) == 1:
        return f"All {n:,} samples have the same score: their order says nothing."
    best = f", and {counts[-1]:,} have the best one" if counts[-1] > 1 else ""
    return (
        f"{shared:,} of {n:,} samples share their score with others{best}; among equals "
        "the pool's order decides, which says nothing."
    )


def unsure(confidence: float) -> str | None:
    """A sentence on the share of the scores that are sure; None where most are."""
    if confidence >= FEW:
        return None
    return (
        f"The scores are guesses: of {confidence:.0%} of them the text tower is sure (confidence "
        f"of at least {SURE}). Do not choose by them; value these rows, or more like them."
    )


def doubts(ranking: Ranking) -> list[str]:
    """All that is to be said wherever the ranking is summed up."""
    found = [ties(ranking.scores)]
    if ranking.confidence is not None:
        found.append(unsure(float(np.mean(ranking.confidence >= SURE))))
    return [sentence for sentence in found if sentence is not None]


def cut_through(ranking: Ranking, k: int) -> str | None:
    """A sentence where the best k end among samples of equal score; None where they do not.

    Example:
        >>> cut_through(Ranking(["a", "b", "c"], [2.0, 1.0, 1.0]), 1) is None
        True
        >>> print(cut_through(Ranking(["a", "b", "c"], [2.0, 1.0, 1.0]), 2))
        the best 2 end among 2 samples of the same score, 1 of which is chosen: by the pool's order
    """
    ordered = ranking.scores[ranking.order[: ranking.n_scored]]
    if not 0 < k < len(ordered) or ordered[k - 1] != ordered[k]:
        return None
    equal = ordered == ordered[k]
    taken = int(equal[:k].sum())
    return (
        f"the best {k:,} end among {int(equal.sum()):,} samples of the same score, {taken:,} of "
        f"which {'is' if taken == 1 else 'are'} chosen: by the pool's order"
    )
