"""What confidence is worth, and what exact gradients for a few samples add to the text tower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from influcoder_lightning.influence.cascade import choose_for_exact
from influcoder_lightning.studies.fidelity.method_rows import Line
from influcoder_lightning.studies.fidelity.rank_correlation import (
    aggregated_rho,
    per_query_rho,
    top_k_precision,
)

TOP_SHARE = 0.1


def by_confidence(
    scores: np.ndarray, confidence: np.ndarray, exact: np.ndarray
) -> dict[str, dict[str, float]]:
    """Rho within the more and the less confident half of the samples."""
    order = np.argsort(-confidence, kind="stable")
    halves = {"more": order[: len(order) // 2], "less": order[len(order) // 2 :]}
    return {
        name: {
            "per_query": per_query_rho(scores[:, half], exact[:, half]),
            "aggregated": aggregated_rho(scores[:, half], exact[:, half]),
            "stated": float(confidence[half].mean()),
        }
        for name, half in halves.items()
    }


def cascade(
    scores: np.ndarray,
    confidence: np.ndarray,
    exact: np.ndarray,
    shares: Sequence[float],
    seed: int,
) -> list[Line]:
    """Quality when m samples get their exact scores: chosen by the cascade, or at random.

    Args:
        scores: [M, N] of the text tower.
        confidence: [N].
        exact: [M, N].
        shares: m as a share of N.
        seed: of the random choice.
    """
    n = exact.shape[1]
    k = max(1, round(TOP_SHARE * n))
    shuffled = np.random.default_rng(seed).permutation(n)
    lines = []
    for share in shares:
        m = round(share * n)
        line: Line = {"m": m, "share": share, "k": k}
        for name, chosen in (
            ("cascade", choose_for_exact(scores.mean(axis=0), confidence, m)),
            ("random", shuffled[:m]),
        ):
            mixed = scores.copy()
            mixed[:, chosen] = exact[:, chosen]
            line[name] = {
                "per_query": per_query_rho(mixed, exact),
                "aggregated": aggregated_rho(mixed, exact),
                "top_k_precision": top_k_precision(mixed, exact, k),
            }
        lines.append(line)
    return lines
