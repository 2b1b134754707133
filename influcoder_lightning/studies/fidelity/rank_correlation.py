"""Rank agreement of cheap scores with exact ones, per query and aggregated."""

from __future__ import annotations

import numpy as np
import scipy.stats


def per_query_rho(scores: np.ndarray, exact: np.ndarray) -> float:
    """Mean over queries of Spearman's rho between rows of scores [M, N] and exact [M, N].

    A query whose scores are all equal says nothing and counts as 0.
    """
    values = [_rho(a, b) for a, b in zip(scores, exact, strict=True)]
    return float(np.mean(values))


def aggregated_rho(scores: np.ndarray, exact: np.ndarray) -> float:
    """Spearman's rho between the means over queries of scores [M, N] and exact [M, N]."""
    return _rho(scores.mean(axis=0), exact.mean(axis=0))


def top_k_precision(scores: np.ndarray, exact: np.ndarray, k: int) -> float:
    """Share of the k best samples by mean exact score that are among the k best by mean score."""
    best = [set(np.argsort(-x.mean(axis=0), kind="stable")[:k].tolist()) for x in (scores, exact)]
    return len(best[0] & best[1]) / k


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(a, b).statistic)
