"""Do the methods agree? Spearman's rank correlation of every two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import id_keys
from influcoder_lightning.influence.rank_several import SIMPLE, Several
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.press.blocks import Block, Chart, Folded, Section, Table, Text
from influcoder_lightning.report.press.style import ACCENT, GRID, INK, PALETTE, hover, label

_FEWEST = 3  # samples that two methods must share
_ALIKE = 0.7


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of methods.

    Attributes:
        names: of the methods [n].
        spearman: [n, n], NaN where a method gives all samples one score, or too few are shared.
        counts: samples that each pair was compared on [n, n].
    """

    names: list[str]
    spearman: NDArray[np.float64]
    counts: NDArray[np.int64]

    def of(self, first: str, second: str) -> float:
        """The correlation of two methods."""
        return float(self.spearman[self.names.index(first), self.names.index(second)])


def find_agreement(rankings: Mapping[str, Ranking]) -> Agreement:
    """Spearman's correlation of every two rankings, on the samples that both have scored.

    Args:
        rankings: by name; their samples may differ.

    Raises:
        RankingError: fewer than two rankings.
    """
    if len(rankings) < 2:
        raise RankingError("give two rankings or more to compare")
    sides = {name: pd.Series(r.scores, id_keys(r.sample_ids)) for name, r in rankings.items()}
    scores = pd.DataFrame(sides).where(np.isfinite)
    known = scores.notna().to_numpy().astype(np.int64)
    spearman = scores.corr("spearman", min_periods=_FEWEST).to_numpy()
    return Agreement(list(rankings), spearman, known.T @ known)


def plot_agreement_map(found: Agreement, main: str | None = None) -> Figure:
    """A heat map with the numbers in it: strong colour, strong agreement.

    Args:
        found: what to show.
        main: the method whose name is set bold, the one that ranked the pool.
    """
    n = len(found.names)
    figure = Figure(figsize=(8, 0.9 + 0.36 * n), layout="constrained")
    axes = figure.subplots()
    for row in range(n):
        for column in range(row + 1):
            value = found.spearman[row, column]
            known = np.isfinite(value)
            # Never so strong that ink on it is hard to read, in light as in dark.
            cell = Rectangle(
                (column - 0.48, row - 0.46),
                0.96,
                0.92,
                facecolor=(ACCENT if value >= 0 else PALETTE[5]) if known else GRID,
                alpha=0.05 + 0.5 * abs(value) if known else 1.0,
                linewidth=0,
            )
            axes.add_patch(cell)
            a, b = found.names[row], found.names[column]
            shared = f"{found.counts[row, column]:,} samples"
            if row != column:
                hover(cell, f"{a} and {b}: {value:.3f} on {shared}")
            axes.text(
                column,
                row,
                f"{value:.2f}" if known else "-",
                ha="center",
                va="center",
                fontsize=9,
                color=INK,
            )
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xticks(range(n), [label(name, 18) for name in found.names])
    axes.set_yticks(range(n), [label(name, 18) for name in found.names])
    axes.tick_params(length=0, labelsize=9, colors=INK)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        if main is not None and tick.get_text() == label(main, 18):
            tick.set_fontweight("bold")
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def say_agreement(found: Agreement, main: str, simple: list[str]) -> str:
    """One sentence or two: who orders the pool like `main`, and whether something simple does.

    Args:
        found: with `main`.
        main: the method that ranked the pool.
        simple: methods that need no gradient; a ranking that is like one of them is no news.
    """
    others = [
        (found.of(main, name), name)
        for name in found.names
        if name not in (main, "random") and np.isfinite(found.of(main, name))
    ]
    if not others:
        return f"No other method can be compared with {main} on this pool."
    told = sorted((pair for pair in others if pair[1] not in simple), reverse=True)
    plain = sorted((pair for pair in others if pair[1] in simple), key=lambda pair: -abs(pair[0]))
    lines = []
    if told:
        value, name = told[0]
        lines.append(f"Closest to {main} is {name} (Spearman {value:.2f}).")
    if plain:
        value, name = plain[0]
        if abs(value) >= _ALIKE:
            lines.append(
                f"But {name} alone gives nearly the same order{_turned(value)} ({value:.2f}): "
                "check that the ranking says more than that before you select by it."
            )
        else:
            lines.append(
                f"No simple score explains the ranking; the nearest is {name} ({value:.2f})."
            )
    if "random" in found.names:
        value = found.of(main, "random")
        lines.append(f"The random control is at {value:.2f}, as far from 0 as chance carries.")
    return " ".join(lines)


def _turned(value: float) -> str:
    return " turned round" if value < 0 else ""


def agreement_section(ranking: Ranking, several: Several) -> Section:
    """How the rankings by several methods go together, and which methods do not apply."""
    title = "Do other methods say the same?"
    found = find_agreement(several.rankings)
    some = ""
    if several.n_used < several.n_samples:
        some = f" of a seeded {several.n_used:,} of {several.n_samples:,}"
    text = several.rankings.get("encoder")
    if text is not None and len(text) < several.n_used:
        some += f" (encoder: {len(text):,} of these)"
    blocks: list[Block] = [
        Text(say_agreement(found, ranking.method, list(SIMPLE)), terms=["spearman"]),
        Chart(
            plot_agreement_map(found, ranking.method),
            f"Spearman correlation of the rankings{some}: 1 is the same order, 0 none, -1 the "
            "reverse. Blue agrees, orange contradicts.",
            "charts/agreement.png",
            terms=["spearman"],
        ),
    ]
    if several.left_out:
        reasons = [[name, reason] for name, reason in several.left_out.items()]
        blocks.append(Folded("Methods left out", [Table(["method", "why"], reasons, limit=400)]))
    return Section(title, blocks)
