"""Do two rankings say the same? Rank correlations and overlaps of what they would select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Pair:
    """Two rankings of the samples that both have scored.

    Attributes:
        ids: n ids as text.
        a: scores [n] float64.
        b: scores [n] float64.
        order_a: positions [n] from best to worst by a; ties as a's own ranking breaks them.
        order_b: likewise by b.
        left_out: how many samples were left out, and why.
    """

    ids: list[str]
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    order_a: NDArray[np.int64]
    order_b: NDArray[np.int64]
    left_out: dict[str, int]


class Bin(TypedDict):
    """Samples whose score lies in a bin; see `agreement`."""

    n: int
    overlap: float | None


class Agreement(TypedDict):
    """What `agreement` finds."""

    n: int
    spearman: float | None
    kendall: float | None
    overlap: dict[str, float]
    bottom_overlap: dict[str, float]
    distinct_scores: dict[str, int]
    left_out: dict[str, int]
    binned_by: NotRequired[str]
    bins: NotRequired[dict[str, Bin]]


def pair(a: Ranking, b: Ranking, only_common: bool = False) -> Pair:
    """Line two rankings up by id; samples without a finite score on both sides are left out.

    Args:
        a: one ranking.
        b: another.
        only_common: leave out samples that only one of them has, instead of refusing.

    Raises:
        RankingError: samples that only one of them has, or fewer than three scored in both.
    """
    keys_a, keys_b = id_keys(a.sample_ids), id_keys(b.sample_ids)
    place_b = {key: place for place, key in enumerate(keys_b)}
    at_a = np.array([i for i, key in enumerate(keys_a) if key in place_b], dtype=np.int64)
    at_b = np.array([place_b[key] for key in keys_a if key in place_b], dtype=np.int64)
    only = {"only in a": len(keys_a) - len(at_a), "only in b": len(keys_b) - len(at_a)}
    if turned := _turned(a, b) or _turned(b, a):
        raise RankingError(turned)
    if any(only.values()) and not (only_common and len(at_a)):
        raise RankingError(_difference(a, b, len(at_a)))
    finite = np.isfinite(a.scores[at_a]) & np.isfinite(b.scores[at_b])
    if finite.sum() < 3:
        raise RankingError(
            f"{int(finite.sum())} samples have a finite score in both rankings; three are needed"
        )
    at_a, at_b = at_a[finite], at_b[finite]
    return Pair(
        [keys_a[i] for i in at_a],
        a.scores[at_a],
        b.scores[at_b],
        np.argsort(a.ranks[at_a]),
        np.argsort(b.ranks[at_b]),
        only | {"without a finite score": int((~finite).sum())},
    )


def agreement(scores: Pair, ks: Sequence[int] = ()) -> Agreement:
    """How far two rankings agree.

    Args:
        scores: of both.
        ks: sizes of the top and bottom to compare; default: 1, 5, 10 and 25 % of the samples.

    Returns:
        ``n``; ``spearman`` and ``kendall`` (tau-b; None where one side is constant); ``overlap``
        {k: share of a's k best that are among b's k best} and ``bottom_overlap``, likewise;
        ``distinct_scores`` and ``left_out``; where all scores of ``a`` (else of ``b``) lie in
        [0, 1], ``binned_by`` and ``bins``: the n samples of the bin against the other ranking's
        top n (``<= 0.5``: its bottom n), as in arXiv 2407.12259; an empty bin has overlap None.

    Raises:
        RankingError: a k that does not fit.
    """
    n = len(scores.ids)
    sizes = sorted(set(ks)) or sorted({max(1, round(s * n)) for s in (0.01, 0.05, 0.1, 0.25)})
    for k in sizes:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
            raise RankingError(f"k={k!r} does not fit {n} samples; give whole numbers from 1 to n")
    sides = {"a": scores.a, "b": scores.b}
    orders = {"a": scores.order_a, "b": scores.order_b}
    defined = all(np.ptp(side) > 0 for side in sides.values())
    rho = float(scipy.stats.spearmanr(scores.a, scores.b).statistic) if defined else None
    tau = float(scipy.stats.kendalltau(scores.a, scores.b).statistic) if defined else None
    result: Agreement = {
        "n": n,
        "spearman": rho,
        "kendall": tau,
        "overlap": {str(k): _shared(orders["a"][:k], orders["b"][:k]) for k in sizes},
        "bottom_overlap": {str(k): _shared(orders["a"][-k:], orders["b"][-k:]) for k in sizes},
        "distinct_scores": {name: len(np.unique(side)) for name, side in sides.items()},
        "left_out": scores.left_out,
    }
    for name, other in (("a", "b"), ("b", "a")):
        if sides[name].min() >= 0 and sides[name].max() <= 1:
            return result | {"binned_by": name, "bins": _bins(sides[name], orders[other])}
    return result


def _bins(scores: NDArray[np.float64], order: NDArray[np.int64]) -> dict[str, Bin]:
    # A share of 0.6 is not above 0.6, also where it was stored as float32.
    shares = np.round(scores, 6)
    bins: dict[str, Bin] = {}
    for name, members in {
        **{f"> {low}": np.flatnonzero(shares > low) for low in THRESHOLDS},
        "<= 0.5": np.flatnonzero(shares <= 0.5),
    }.items():
        n = len(members)
        end = order[len(order) - n :] if name == "<= 0.5" else order[:n]
        bins[name] = {"n": n, "overlap": _shared(members, end) if n else None}
    return bins


def _shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return len(np.intersect1d(a, b)) / len(a)


def _turned(side: Ranking, other: Ranking) -> str:
    """The error about a matrix of samples x queries; empty if it is none."""
    if side.metadata.get("query_rows") != len(other) or len(side) == len(other):
        return ""
    return (
        f"{side.metadata['path']} has {len(other)} rows and {len(side)} columns, and the other "
        f"side {len(other)} samples: it seems to be samples x queries. Transpose it; matrices are "
        "queries x samples"
    )


def _difference(a: Ranking, b: Ranking, n_common: int) -> str:
    """The error about samples that only one side has, and the way out."""
    in_a, in_b = (set(id_keys(side.sample_ids)) for side in (a, b))
    alone = [
        f"{len(keys)} only in {name} {first_few(sorted(keys))}"
        for name, keys in (("a", in_a - in_b), ("b", in_b - in_a))
        if keys
    ]
    way_out = "agreement.only_common=true compares the samples that both have"
    if not n_common:
        way_out = "they rank different samples"
        if bool(a.metadata.get("positional")) != bool(b.metadata.get("positional")):
            way_out = "scores without ids fit the ids 0 to N - 1 only; save them as {id: score}"
    return (
        f"a ranks {len(a)} samples and b {len(b)}, of which {n_common} are the same: "
        f"{', '.join(alone)}; {way_out}"
    )
