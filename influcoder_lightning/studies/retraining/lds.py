"""The linear datamodeling score: do sums of scores order subsets as retraining on them does?

For each query, Spearman's rank correlation over subsets between the sum of the members' scores and
minus the query's loss after training on the subset; then the mean over queries. Ilyas et al. 2022,
arXiv 2202.00622; Park et al. 2023, TRAK, arXiv 2303.14186.

Intervals are percentiles of a bootstrap that draws subsets and queries anew. All methods see the
same draws, so that differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from influcoder_lightning.studies.retraining.truth import Truth

_LEVEL = (2.5, 97.5)


@dataclass(frozen=True)
class Score:
    """LDS of one method.

    Attributes:
        mean: over queries.
        ci95: of the mean.
        per_query: [M].
        aggregated: of the scores summed over queries with the losses summed over queries.
        behind: name of another method -> its mean minus this one's, and the 95 % interval.
    """

    mean: float
    ci95: tuple[float, float]
    per_query: NDArray[np.float64]
    aggregated: float
    behind: dict[str, tuple[float, float, float]]


def row_correlations(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M] Spearman's rho of each row of a [M, S] with that of b [M, S]; 0 for a constant row."""
    x, y = (rankdata(rows, axis=1) for rows in (a, b))
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.divide((x * y).sum(axis=1), lengths, out=np.zeros(len(x)), where=lengths > 0)


def seed_agreement(truth: Truth) -> NDArray[np.float64]:
    """[M] rank correlation over subsets of the losses of two seeds, mean over pairs of seeds.

    How much of a subset's effect is more than chance: what one training can know of another.
    """
    losses = truth.losses.transpose(1, 2, 0)
    pairs = [row_correlations(a, b) for a, b in combinations(losses, 2)]
    return np.mean(pairs, axis=0) if pairs else np.full(truth.losses.shape[2], np.nan)


def mean_ceiling(agreement: float, seeds: int) -> float:
    """What the perfect prediction would reach against the mean over seeds.

    The square root of that mean's reliability, by Spearman and Brown (1910):
    ``R a / (1 + (R - 1) a)`` for R seeds that agree at a.
    """
    a = max(agreement, 0.0)
    return float(np.sqrt(seeds * a / (1 + (seeds - 1) * a)))


def lds_table(
    truth: Truth, scores: Mapping[str, NDArray[np.float64]], draws: int = 1000, seed: int = 0
) -> dict[str, Score]:
    """LDS of each method's scores [M, N] or [V, M, N], with paired bootstrap intervals.

    Args:
        truth: S subsets; three or more.
        scores: by name, in the order of the truth's queries and samples. Those of V valuation runs
            [V, M, N] are judged one by one, and the mean of their LDS is reported.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    target = truth.helpfulness
    predicted = {
        name: [truth.predictions(run) for run in (matrix if matrix.ndim == 3 else [matrix])]
        for name, matrix in scores.items()
    }
    rhos = {
        name: np.mean([row_correlations(rows, target) for rows in runs], axis=0)
        for name, runs in predicted.items()
    }
    drawn = {name: np.empty(draws) for name in scores}
    n_queries, n_subsets = target.shape
    for draw, (queries, subsets) in enumerate(_resampled(n_queries, n_subsets, draws, seed)):
        some = np.ix_(queries, subsets)
        again = target[some]
        for name, runs in predicted.items():
            drawn[name][draw] = np.mean([row_correlations(rows[some], again) for rows in runs])
    total = target.mean(axis=0, keepdims=True)
    table = {}
    for name, per_query in rhos.items():
        mean = float(per_query.mean())
        low, high = np.percentile(drawn[name], _LEVEL)
        behind = {}
        for other in scores:
            if other != name:
                ends = np.percentile(drawn[other] - drawn[name], _LEVEL)
                behind[other] = (float(rhos[other].mean()) - mean, float(ends[0]), float(ends[1]))
        summed = [
            row_correlations(rows.mean(axis=0, keepdims=True), total) for rows in predicted[name]
        ]
        table[name] = Score(
            mean, (float(low), float(high)), per_query, float(np.mean(summed)), behind
        )
    return table


def agreement_interval(truth: Truth, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean `seed_agreement`, by the bootstrap of `lds_table`."""
    subsets_first = truth.losses
    values = []
    for queries, subsets in _resampled(subsets_first.shape[2], len(subsets_first), draws, seed):
        part = subsets_first[subsets][:, :, queries].transpose(1, 2, 0)
        values.append(np.mean([row_correlations(a, b) for a, b in combinations(part, 2)]))
    low, high = np.percentile(values, _LEVEL)
    return float(low), float(high)


def _resampled(
    n_queries: int, n_subsets: int, draws: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield rng.integers(n_queries, size=n_queries), rng.integers(n_subsets, size=n_subsets)
