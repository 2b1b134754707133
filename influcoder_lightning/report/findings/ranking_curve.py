"""`ranking.png`: the scores along the ranking, and where in it each task lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.press.style import (
    ACCENT,
    GRID,
    INK,
    MUTED,
    OTHER,
    PALETTE,
    hover,
    label,
    legend_beside,
    save_figure,
    tidy,
)
from influcoder_lightning.selection.selection import Groups, resolve_groups

_MAX_POINTS = 2000
_MAX_BINS = 10
_MARKERS = ["o", "D", "s", "^", "v"]

Highlight = Mapping[str, Iterable[Any]] | Iterable[Any]


def plot_ranking(
    ranking: Ranking,
    path: str | os.PathLike[str],
    groups: Groups | None = None,
    title: str | None = None,
    highlight: Highlight | None = None,
) -> None:
    """Write the figure of `ranking_figure`, which says what the other arguments are.

    Args:
        path: the image, format by suffix.

    Raises:
        RankingError: as `ranking_figure`.
    """
    save_figure(ranking_figure(ranking, groups, title, highlight), path)


def ranking_figure(
    ranking: Ranking,
    groups: Groups | None = None,
    title: str | None = None,
    highlight: Highlight | None = None,
) -> Figure:
    """A figure of score against rank; with `groups` also the share of each along the ranking.

    Args:
        ranking: what to show; samples without a finite score are counted in the caption.
        groups: id -> group or one group per sample, for instance the task.
        title: above the figure.
        highlight: ids to mark, or name -> ids (planted samples, a selection).

    Raises:
        RankingError: no finite score, a sample without a group, or an unknown highlighted id.
    """
    finite = np.flatnonzero(np.isfinite(ranking.scores[ranking.order]))
    if not len(finite):
        raise RankingError("no sample has a finite score, so there is nothing to plot")
    order = ranking.order[finite]
    figure = Figure(figsize=(8.6, 6.4 if groups is not None else 4.2), layout="constrained")
    if groups is None:
        curve = figure.subplots()
    else:
        curve, shares = figure.subplots(2, 1, height_ratios=[3, 2.6])
        labels = resolve_groups(ranking, groups)
        _draw_shares(shares, [labels[place] for place in order.tolist()])
    _draw_curve(curve, ranking, order, highlight)
    dropped = len(ranking) - len(order)
    note = f" ({dropped:,} without a finite score not shown)" if dropped else ""
    heading = label(title, 90) if title else f"Influence ranking by {label(ranking.method or '?')}"
    curve.set_title(heading, loc="left", fontsize=12, color=INK, fontweight="bold", pad=20)
    curve.text(
        0,
        1.025,
        f"{len(order):,} samples{note}; rank 1 has the highest score",
        transform=curve.transAxes,
        fontsize=9,
        color=MUTED,
    )
    return figure


def _draw_curve(
    axes: Axes, ranking: Ranking, order: NDArray[np.int64], highlight: Highlight | None
) -> None:
    scores = ranking.scores[order]
    ranks = np.arange(1, len(scores) + 1)
    # The curve falls steadily, so that evenly spaced points (ends included) lose nothing visible.
    shown = np.unique(np.linspace(0, len(scores) - 1, _MAX_POINTS).round().astype(int))
    few = len(scores) <= 60
    axes.plot(ranks[shown], scores[shown], color=ACCENT, linewidth=1.8, zorder=3)
    if few:
        axes.plot(ranks, scores, "o", color=ACCENT, markersize=3.5, zorder=3)
    elif scores.min() < 0 < scores.max() or scores.min() >= 0:
        axes.fill_between(ranks[shown], scores[shown], 0, color=ACCENT, alpha=0.10, linewidth=0)
    if scores.min() < 0 < scores.max():
        axes.axhline(0, color=MUTED, linewidth=0.8)
    _mark(axes, ranking, order, highlight)
    tidy(axes)
    axes.set_xlim(1 - 0.01 * len(scores), len(scores) * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("rank (1 = best)", color=INK, fontsize=9)
    axes.set_ylabel("score", color=INK, fontsize=9)


def _mark(
    axes: Axes, ranking: Ranking, order: NDArray[np.int64], highlight: Highlight | None
) -> None:
    if highlight is None:
        return
    named = highlight if isinstance(highlight, Mapping) else {"highlighted": highlight}
    place = {key: at for at, key in enumerate(id_keys(ranking.sample_ids[order]))}
    known = set(id_keys(ranking.sample_ids))
    for turn, (name, ids) in enumerate(named.items()):
        keys = [str(sample_id) for sample_id in ids]
        if unknown := [key for key in keys if key not in known]:
            raise RankingError(
                f"{len(unknown)} ids to highlight as {name!r} are not in the ranking: "
                f"{first_few(unknown)}"
            )
        spots = np.array(sorted(place[key] for key in keys if key in place), dtype=int)
        few = len(spots) <= 50
        axes.plot(
            spots + 1,
            ranking.scores[order[spots]],
            _MARKERS[turn % len(_MARKERS)],
            color=[PALETTE[5], PALETTE[2], PALETTE[3], PALETTE[1], INK][turn % 5],
            markersize=6 if few else 4,
            markeredgecolor="white",
            # White rims of crowded markers would cover their neighbours.
            markeredgewidth=0.6 if few else 0,
            alpha=1 if few else 0.5,
            linestyle="",
            label=f"{label(name)} ({len(spots):,})",
            zorder=4,
        )
    if named:
        axes.legend(frameon=False, fontsize=9, loc="upper right")


def _draw_shares(axes: Axes, labels: list[Hashable]) -> None:
    """Stacked bars: the share of each group in equal stretches of the ranking, and in all."""
    counts = Counter(labels)
    names = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))]
    shown = names if len(names) <= len(PALETTE) else names[: len(PALETTE)]
    rest = len(names) - len(shown)
    bins = min(_MAX_BINS, len(labels))
    stretches = np.array_split(np.arange(len(labels)), bins)
    # A gap sets the overall share apart from the stretches.
    centres = [*range(bins), bins + 0.6]
    codes = {name: code for code, name in enumerate(shown)}
    numbers = np.array([codes.get(name, len(shown)) for name in labels])
    table = np.array(
        [
            np.bincount(numbers[part], minlength=len(shown) + 1) / len(part)
            for part in (*stretches, np.arange(len(labels)))
        ]
    )
    bottom = np.zeros(len(table))
    for code in range(len(shown) + (1 if rest else 0)):
        other = code == len(shown)
        name = f"{rest} others" if other else label(shown[code])
        number = sum(counts[n] for n in names[len(shown) :]) if other else counts[shown[code]]
        bars = axes.bar(
            centres,
            table[:, code],
            bottom=bottom,
            width=0.92,
            color=OTHER if other else PALETTE[code],
            edgecolor="white",
            linewidth=0.6,
            label=f"{name} ({number:,})",
        )
        for bar, share in zip(bars, table[:, code], strict=True):
            hover(bar, f"{name}: {share:.0%}")
        bottom += table[:, code]
    ticks = [
        f"{part[0] + 1:,}" if len(part) == 1 else f"{part[0] + 1:,}-{part[-1] + 1:,}"
        for part in stretches
    ]
    longest = max(len(tick) for tick in ticks)
    axes.set_xticks(
        centres,
        [*ticks, "all"],
        rotation=30 if longest > 9 else 0,
        ha="right" if longest > 9 else "center",
    )
    tidy(axes, grid="")
    axes.spines["left"].set_color(GRID)
    axes.tick_params(axis="x", length=0, labelsize=8)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, bins + 1.2)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel("share of samples", color=INK, fontsize=9)
    axes.set_xlabel("rank", color=INK, fontsize=9)
    legend_beside(axes)
