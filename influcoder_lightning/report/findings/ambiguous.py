"""Samples on which the queries disagree: some ask for them, others would rather not see them.

    spread(z) = standard deviation over queries q of  p_q(z)

where p_q(z) in [0, 1] is the place of z in the ranking by query q alone (0 is the best). Places and
not scores: queries differ in the size and spread of their scores, and one query with large scores
would else decide alone. A sample whose scores are all near zero lies in the middle of every query's
ranking and has a small spread; only one that some queries put at the top and others at the bottom
has a large one. 0.5 is the most there can be (half of the queries put it first, half last), 0.29
what queries that have nothing to do with each other give on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.ids import id_keys
from influcoder_lightning.influence.rank_several import CONTROL, Several
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.press.blocks import Section, Table, Text

WORK = 20_000_000  # places that are computed: queries x samples
_SHOWN = 8


@dataclass(frozen=True)
class Spread:
    """How much the places of each sample differ, in the order of the ranking's samples.

    Attributes:
        values: [N] from 0 to 1, NaN where unknown.
        best: [N] the best place of each, in per cent (0 is the best).
        worst: [N] the worst place of each.
        over: what was compared: "queries" or "methods".
        used: how many of them.
        total: how many there are.
    """

    values: NDArray[np.float32]
    best: NDArray[np.float32]
    worst: NDArray[np.float32]
    over: str
    used: int
    total: int

    def most(self, n: int) -> NDArray[np.int64]:
        """Positions of the n samples with the largest spread, the largest first."""
        known = np.flatnonzero(np.isfinite(self.values))
        return known[np.argsort(-self.values[known], kind="stable")[:n]]

    def definition(self) -> str:
        """What the number is, for people."""
        if self.over == "methods":
            return (
                "Spread: the distance between the best and the worst place that a sample has in "
                f"the rankings of {self.used} methods, as a share of the ranking. 0: all methods "
                "agree; 1: first by one, last by another."
            )
        some = f"{self.used} of the {self.total} queries" if self.used < self.total else "queries"
        return (
            "Spread: each query alone ranks all samples; the spread is the standard deviation over "
            f"{some} of a sample's place (0 best, 1 worst). 0: all queries agree. 0.29: what "
            "unrelated queries give. 0.5: half of them put it first and half last."
        )


def spread_over_queries(
    ranking: Ranking, work: int = WORK, seed: int = 0, block: int = 16
) -> Spread | None:
    """How far the queries disagree on each sample; None without the scores of two queries.

    Memory: `block` x N x 8 bytes beside what the ranking holds. Where queries x samples are more
    than `work`, a seeded part of the queries is used, at least two.

    Args:
        ranking: N samples with `per_query` [M, N].
        work: places to compute at most.
        seed: of the part of the queries.
        block: queries ranked at a time.
    """
    matrix = ranking.per_query
    if matrix is None or len(matrix) < 2:
        return None
    total, n = matrix.shape
    used = min(total, max(2, work // max(n, 1)))
    chosen = np.sort(np.random.default_rng(seed).choice(total, used, replace=False))
    # Sums in float64 of places in [0, 1]: two passes are not needed.
    first, second = np.zeros(n), np.zeros(n)
    best, worst = np.ones(n), np.zeros(n)
    for start in range(0, used, block):
        places = _places(np.asarray(matrix[chosen[start : start + block]], dtype=np.float64))
        first += places.sum(axis=0)
        second += np.square(places).sum(axis=0)
        np.minimum(best, places.min(axis=0), out=best)
        np.maximum(worst, places.max(axis=0), out=worst)
    mean = first / used
    values = np.sqrt(np.maximum(second / used - np.square(mean), 0))
    return Spread(
        values.astype(np.float32),
        (100 * best).astype(np.float32),
        (100 * worst).astype(np.float32),
        "queries",
        used,
        total,
    )


def spread_over_methods(ranking: Ranking, others: Mapping[str, Ranking]) -> Spread | None:
    """The same with methods in the place of queries: largest difference of a sample's places.

    Args:
        ranking: gives the samples and their order.
        others: rankings by name, of all or some of the samples; those of controls left out.
    """
    if len(others) < 2:
        return None
    at = {key: place for place, key in enumerate(id_keys(ranking.sample_ids))}
    best = np.full(len(ranking), np.inf)
    worst = np.full(len(ranking), -np.inf)
    for other in others.values():
        places = _places(np.asarray(other.scores)[None])[0]
        mine = np.array([at.get(key, -1) for key in id_keys(other.sample_ids)])
        known = (mine >= 0) & np.isfinite(places)
        np.minimum.at(best, mine[known], places[known])
        np.maximum.at(worst, mine[known], places[known])
    seen = np.isfinite(best)
    values, low, high = (np.full(len(ranking), np.nan, dtype=np.float32) for _ in range(3))
    values[seen] = (worst - best)[seen]
    low[seen], high[seen] = 100 * best[seen], 100 * worst[seen]
    return Spread(values, low, high, "methods", len(others), len(others))


def _places(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Place of each sample in each row of scores [m, n]: 0 best, 1 worst; ties share theirs.

    NaN where a score is not finite.
    """
    places = np.full(scores.shape, np.nan)
    for row, values in enumerate(scores):
        finite = np.isfinite(values)
        count = int(np.count_nonzero(finite))
        places[row, finite] = (rankdata(-values[finite]) - 1) / max(1, count - 1)
    return places


def find_spread(ranking: Ranking, several: Several) -> Spread | None:
    """Over the queries; over the methods, chance left out, where one query or none ranks."""
    over_queries = spread_over_queries(ranking)
    if over_queries is not None:
        return over_queries
    others = {name: other for name, other in several.rankings.items() if name != CONTROL}
    return spread_over_methods(ranking, others)


def ambiguous_section(ranking: Ranking, spread: Spread, rows: Mapping[str, TextRow]) -> Section:
    """The samples with the largest spread; `rows` has the rows by id as text."""
    keys = id_keys(ranking.sample_ids)
    with_task = any(row.get("task") is not None for row in rows.values())
    columns = ["spread", "best place", "worst place", "rank", "sample"]
    columns += [*(["task"] if with_task else []), "prompt", "response"]
    lines = []
    for place in spread.most(_SHOWN).tolist():
        row = rows.get(keys[place], {})
        numbers = [float(values[place]) for values in (spread.values, spread.best, spread.worst)]
        task = [row.get("task")] if with_task else []
        line = [round(numbers[0], 3), *(f"{n:.1f} %" for n in numbers[1:])]
        line += [int(ranking.ranks[place]), keys[place], *task]
        lines.append([*line, row.get("prompt"), row.get("response")])
    middle = float(np.nanmedian(spread.values))
    queries = spread.over == "queries"
    return Section(
        "Where the queries disagree" if queries else "Where the methods disagree",
        [
            Text(
                f"Some {spread.over} put these samples near the top, others near the bottom, so "
                "that their rank is a compromise. "
                + (
                    "If the queries are of several kinds, rank towards each kind on its own "
                    "(recipe=score queries=...); if they are of one kind, such a sample serves "
                    "some of them and not the others: read it before you rely on its rank."
                    if queries
                    else "Do not trust their place before you have read them."
                )
            ),
            Table(columns, lines, limit=120),
            Text(f"{spread.definition()} Of all samples here the median is {middle:.2f}."),
        ],
    )
