"""How the scores are spread: a histogram with each group's share, and where the top k begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.press.blocks import Chart, Folded, Section, Table, Text
from influcoder_lightning.report.press.style import (
    ACCENT,
    INK,
    MUTED,
    OTHER,
    PALETTE,
    hover,
    label,
    legend_beside,
    tidy,
)
from influcoder_lightning.selection.selection import Groups, resolve_groups

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS = 60
# Scores beyond the axis are counted at its ends: a few outliers would squeeze all others into a
# single bar.
_FAR = 1.0


@dataclass(frozen=True)
class Distribution:
    """Scores of a ranking in a few numbers.

    Attributes:
        n: samples with a finite score.
        without: samples without one.
        quantiles: score at each of `QUANTILES` of the samples, the lowest first.
        positive: share of the samples with a score above 0.
        threshold: score of the last of the top k; None without k.
        k: how many are taken; None where nothing is selected.
    """

    n: int
    without: int
    quantiles: tuple[float, ...]
    positive: float
    threshold: float | None
    k: int | None


def describe_scores(ranking: Ranking, k: int | None = None) -> Distribution | None:
    """The distribution of the scores; None where no score is finite.

    Args:
        ranking: N samples.
        k: size of the top k; one that is larger than the number of scores counts as all of them.
    """
    scores = ranking.scores[np.isfinite(ranking.scores)]
    if not len(scores):
        return None
    size = None if k is None else min(k, len(scores))
    return Distribution(
        n=len(scores),
        without=len(ranking) - len(scores),
        quantiles=tuple(np.quantile(scores, QUANTILES).tolist()),
        positive=float(np.mean(scores > 0)),
        threshold=None
        if size is None
        else float(np.partition(scores, len(scores) - size)[len(scores) - size]),
        k=size,
    )


def plot_distribution(
    ranking: Ranking, found: Distribution, groups: Groups | None = None
) -> tuple[Figure, int]:
    """Histogram of the scores; a bar shows which groups are in it.

    Args:
        ranking: N samples; millions are binned.
        found: what `describe_scores` says of it.
        groups: id -> group or one group per sample, for instance the task.

    Returns:
        The figure, and how many samples lie beyond its axis (they are counted in its end bars).

    Raises:
        RankingError: a sample without a group.
    """
    finite = np.isfinite(ranking.scores)
    scores = ranking.scores[finite]
    edges = _edges(scores, found)
    # A sample beyond an end belongs to the end's bar.
    bins = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, len(edges) - 2)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    if groups is None:
        _draw(axes, edges, [("samples", ACCENT, bins)], found)
    else:
        labels = resolve_groups(ranking, groups)
        _draw(axes, edges, _by_group(labels, finite, bins), found)
        legend_beside(axes)
    beyond = int(np.count_nonzero((scores < edges[0]) | (scores > edges[-1])))
    _mark_threshold(axes, found)
    _mark_quantiles(axes, found, edges)
    return figure, beyond


def _edges(scores: NDArray[np.float64], found: Distribution) -> NDArray[np.float64]:
    """Ends of the bars [bins + 1], no further beyond most scores than these are wide."""
    low, *_, high = found.quantiles
    reach = _FAR * (high - low)
    start, stop = max(scores.min(), low - reach), min(scores.max(), high + reach)
    if found.threshold is not None:  # the line has to be on the axis
        start, stop = min(start, found.threshold), max(stop, found.threshold)
    if stop <= start:  # all scores equal
        margin = 0.05 * abs(start) or 0.5
        start, stop = start - margin, stop + margin
    return np.linspace(start, stop, min(_BINS, max(8, len(scores) // 4)) + 1)


def _by_group(
    labels: list[Hashable], finite: NDArray[np.bool_], bins: NDArray[np.int64]
) -> list[tuple[str, str, NDArray[np.int64]]]:
    """Name, colour and bars of the largest groups; all others are one."""
    kept = [name for name, keep in zip(labels, finite.tolist(), strict=True) if keep]
    counts = Counter(kept)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))]
    shown = names[: len(PALETTE)]
    codes = {name: code for code, name in enumerate(shown)}
    numbers = np.fromiter((codes.get(name, len(shown)) for name in kept), np.int64, len(kept))
    parts = [
        (f"{label(name)} ({counts[name]:,})", PALETTE[code], bins[numbers == code])
        for code, name in enumerate(shown)
    ]
    if rest := len(names) - len(shown):
        some = bins[numbers == len(shown)]
        parts.append((f"{rest} others ({len(some):,})", OTHER, some))
    return parts


def _draw(
    axes: Axes,
    edges: NDArray[np.float64],
    parts: list[tuple[str, str, NDArray[np.int64]]],
    found: Distribution,
) -> None:
    bottom = np.zeros(len(edges) - 1)
    for name, colour, bins in parts:
        heights = np.bincount(bins, minlength=len(bottom))
        bars = axes.bar(
            edges[:-1],
            heights,
            width=0.9 * np.diff(edges),
            align="edge",
            bottom=bottom,
            color=colour,
            label=name,
        )
        for bar, height, left, right in zip(bars, heights, edges, edges[1:], strict=False):
            hover(bar, f"{name}: {height:,} from {left:.3g} to {right:.3g}")
        bottom += heights
    tidy(axes)
    axes.tick_params(axis="x", pad=8)  # room for the quartiles' marks
    axes.set_ylim(0, 1.16 * bottom.max())  # room for what stands above the bars
    axes.set_xlabel("score", color=INK, fontsize=9)
    axes.set_ylabel("samples", color=INK, fontsize=9)


def _mark_threshold(axes: Axes, found: Distribution) -> None:
    if found.threshold is None or found.k is None:
        return
    axes.axvline(found.threshold, color=INK, linewidth=1.4, linestyle="--")
    # On the side with more room.
    low, high = axes.get_xlim()
    left = found.threshold > (low + high) / 2
    axes.annotate(
        f"top {found.k:,} →",
        xy=(found.threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=9,
        color=INK,
    )


def _mark_quantiles(axes: Axes, found: Distribution, edges: NDArray[np.float64]) -> None:
    """Small marks below the axis where a quarter, half and three quarters of the samples lie."""
    for share in (0.25, 0.5, 0.75):
        score = found.quantiles[QUANTILES.index(share)]
        if edges[0] <= score <= edges[-1]:
            mark = axes.plot(
                [score, score],
                [-0.03, 0],
                color=INK if share == 0.5 else MUTED,
                linewidth=3,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                zorder=5,
            )
            hover(mark[0], f"{share:.0%} of the samples score below {score:.3g}")


def distribution_section(ranking: Ranking, k: int, groups: Groups | None) -> Section:
    """How the scores of a ranking with some finite score are spread.

    Args:
        ranking: of the pool.
        k: how many would be chosen.
        groups: of the samples, for the chart.
    """
    found = describe_scores(ranking, k)
    assert found is not None  # some score is finite
    assert found.threshold is not None
    figure, beyond = plot_distribution(ranking, found, groups)
    outside = f"; {beyond:,} samples beyond the axis are counted at its ends" if beyond else ""
    without = f" {found.without:,} samples have no score." if found.without else ""
    low, high = found.quantiles[QUANTILES.index(0.25)], found.quantiles[QUANTILES.index(0.75)]
    return Section(
        "How the scores are spread",
        [
            Text(
                f"The top {found.k:,} start at a score of {found.threshold:.3g}; half of all "
                f"samples lie between {low:.3g} and {high:.3g}, and {found.positive:.0%} are above "
                f"0.{without} A tail that stands apart on the right is worth more than its size; "
                "where the line cuts through the middle of a hump, the samples just below it are "
                "as good as those just above.",
                terms=["score"],
            ),
            Chart(
                figure,
                f"Scores of {found.n:,} samples by {ranking.method}; the dashed line is where the "
                f"top {found.k:,} begin, the marks at the foot are quartiles{outside}.",
                "charts/distribution.png",
            ),
            Folded(
                "Quantiles",
                [
                    Table(
                        ["share of samples below", "score"],
                        [
                            [f"{share:.0%}", value]
                            for share, value in zip(QUANTILES, found.quantiles, strict=True)
                        ],
                    )
                ],
            ),
        ],
    )
