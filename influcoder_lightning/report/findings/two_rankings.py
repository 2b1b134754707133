"""Two rankings drawn: ranks against ranks, and the overlap of what both would select."""

from __future__ import annotations

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from influcoder_lightning.influence.agreement import Pair
from influcoder_lightning.report.press.style import ACCENT, INK, MUTED, label, tidy

_MANY = 3000


def agreement_figure(pair: Pair, name_a: str = "a", name_b: str = "b") -> Figure:
    """Two panels; above 3,000 samples the ranks are shown as counts in hexagons."""
    n = len(pair.ids)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ranks, overlap = figure.subplots(1, 2)
    x, y = (scipy.stats.rankdata(-side) for side in (pair.a, pair.b))
    if n > _MANY:
        ranks.hexbin(x, y, gridsize=50, cmap="Blues", mincnt=1, linewidths=0.1)
    else:
        ranks.scatter(x, y, s=10, alpha=0.5, color=ACCENT, linewidths=0)
    ranks.set_xlabel(f"rank by a: {label(name_a, 40)} (1 = best)", fontsize=9, color=INK)
    ranks.set_ylabel(f"rank by b: {label(name_b, 40)}", fontsize=9, color=INK)
    tidy(ranks, grid="")
    k = np.arange(1, n + 1)
    overlap.plot(k, _overlaps(pair), color=ACCENT, label="measured")
    overlap.plot(k, k / n, color=MUTED, linestyle="--", label="by chance")
    overlap.set_xscale("log")
    overlap.set_ylim(0, 1.02)
    overlap.set_xlabel("k", fontsize=9, color=INK)
    overlap.set_ylabel("share of the top k in common", fontsize=9, color=INK)
    overlap.legend(fontsize=8, frameon=False)
    tidy(overlap)
    return figure


def _overlaps(pair: Pair) -> np.ndarray:
    """Share [n] of the top k in common, for every k."""
    n = len(pair.ids)
    place = np.empty(n, dtype=np.int64)
    place[pair.order_b] = np.arange(n)
    # A sample is in both top k as soon as k passes the worse of its two places.
    worse = np.maximum(np.arange(n), place[pair.order_a])
    return np.asarray(np.bincount(worse, minlength=n).cumsum() / np.arange(1, n + 1))
