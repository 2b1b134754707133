"""Do two rankings say the same? Rank correlations and overlaps of what they would select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.influence.ids import first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Pair:
    """Scores of the samples that two rankings share.

    Attributes:
        ids: n ids as text.
        a: [n] float64.
        b: [n] float64.
        left_out: how many samples were left out, and why.
    """

    ids: list[str]
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    left_out: dict[str, int]


def pair(a: Ranking, b: Ranking, only_common: bool = False) -> Pair:
    """Line two rankings up by id; samples without a finite score in both are left out.

    Args:
        a: one ranking.
        b: another.
        only_common: leave out samples that only one of them has, instead of refusing.

    Raises:
        RankingError: samples that only one of them has, or fewer than three in common.
    """
    keys_a, keys_b = id_keys(a.sample_ids), id_keys(b.sample_ids)
    place_b = {key: i for i, key in enumerate(keys_b)}
    common = [(i, place_b[key]) for i, key in enumerate(keys_a) if key in place_b]
    missing = {
        "only in a": len(keys_a) - len(common),
        "only in b": len(keys_b) - len(common),
    }
    if not only_common and any(missing.values()):
        known = set(keys_a)
        lonely = [key for key in keys_a if key not in place_b]
        lonely += [key for key in keys_b if key not in known]
        turned = ""
        if not common or {len(keys_a), len(keys_b)} != {len(common)}:
            turned = " (a matrix must be queries x samples; transpose it if it is the other way)"
        raise RankingError(
            f"a ranks {len(keys_a)} samples and b {len(keys_b)}, of which {len(common)} are the "
            f"same; for instance {first_few(lonely)}{turned}. agreement.only_common=true compares "
            "what both have"
        )
    left, right = (
        (np.array(side, dtype=np.int64) for side in zip(*common, strict=True))
        if (common)
        else (np.empty(0, np.int64), np.empty(0, np.int64))
    )
    scores_a, scores_b = a.scores[left], b.scores[right]
    finite = np.isfinite(scores_a) & np.isfinite(scores_b)
    if finite.sum() < 3:
        raise RankingError(
            f"the rankings have {int(finite.sum())} scored samples in common; three are needed"
        )
    ids = [keys_a[i] for i, keep in zip(left, finite, strict=True) if keep]
    missing["without a finite score"] = int((~finite).sum())
    return Pair(ids, scores_a[finite], scores_b[finite], missing)


def agreement(scores: Pair, ks: Sequence[int] = ()) -> dict[str, Any]:
    """How far two rankings agree.

    Args:
        scores: of both.
        ks: sizes of the top and bottom to compare; default: 1, 5, 10 and 25 % of the samples.

    Returns:
        ``n``; ``spearman`` and ``kendall`` (tau-b; null where one side is constant); ``overlap``
        {k: share of a's k best that are among b's k best} and ``bottom_overlap``; ``left_out``;
        where scores of ``a`` (else of ``b``) lie in [0, 1], ``binned_by`` and ``bins``: the n
        samples of the bin against the other ranking's top n (``<= 0.5``: its bottom n), as in
        arXiv 2407.12259. Ties are broken by position.

    Raises:
        RankingError: a k that does not fit.
    """
    n = len(scores.ids)
    sizes = list(ks) or sorted({max(1, round(share * n)) for share in (0.01, 0.05, 0.1, 0.25)})
    for k in sizes:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
            raise RankingError(f"agreement.ks: {k!r} does not fit {n} samples; give 1 to {n}")
    order = [np.argsort(-side, kind="stable") for side in (scores.a, scores.b)]
    result: dict[str, Any] = {
        "n": n,
        "spearman": _number(scipy.stats.spearmanr(scores.a, scores.b).statistic),
        "kendall": _number(scipy.stats.kendalltau(scores.a, scores.b).statistic),
        "overlap": {str(k): _share(order[0][:k], order[1][:k]) for k in sizes},
        "bottom_overlap": {str(k): _share(order[0][-k:], order[1][-k:]) for k in sizes},
        "left_out": scores.left_out,
    }
    for name, binned, other in (("a", scores.a, order[1]), ("b", scores.b, order[0])):
        if binned.min() >= 0 and binned.max() <= 1:
            return result | {"binned_by": name, "bins": _bins(binned, other)}
    return result


def _bins(scores: NDArray[np.float64], other: NDArray[np.int64]) -> dict[str, Any]:
    members = {f"> {low}": np.flatnonzero(scores > low) for low in THRESHOLDS}
    members["<= 0.5"] = np.flatnonzero(scores <= 0.5)
    bins = {}
    for name, chosen in members.items():
        n = len(chosen)
        end = other[len(other) - n :] if name == "<= 0.5" else other[:n]
        bins[name] = {"n": n, "overlap": _share(chosen, end) if n else None}
    return bins


def _share(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return len(np.intersect1d(a, b)) / len(a)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
