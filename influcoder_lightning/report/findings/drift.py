"""How far the model moved within each window, seen by the queries' gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from influcoder_lightning.report.press.blocks import Chart, Folded, Section, Table, Text
from influcoder_lightning.report.press.style import ACCENT, GRID, INK, PALETTE, hover, tidy

DRIFT_WARN = 0.5
SHOWN = 20  # rows of the table
_BARS = 40  # windows that are drawn as bars of their length in steps; more become a line
_LOW = PALETTE[5]


@dataclass(frozen=True)
class Drift:
    """The windows of a run whose drift is known.

    Attributes:
        windows: of the store, those with a drift, in order.
        low: how many lie below the warn line.
        mean: drift of a row's window, mean over the rows.
        rows_low: share of the rows that were captured in a window below the warn line.
        warn: the line.
    """

    windows: pd.DataFrame
    low: int
    mean: float
    rows_low: float
    warn: float

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows; of many windows the ones with the lowest drift, in order."""
        columns = ["window", "steps from", "to", "rows", "drift", "tower version"]
        some = self.windows
        if len(some) > SHOWN:
            some = some.nsmallest(SHOWN, "drift").sort_values("window")
        names = ["window", "start_step", "end_step", "n_rows", "drift", "tower_version"]
        return columns, [list(row) for row in zip(*(some[n].tolist() for n in names), strict=True)]

    def advice(self) -> str:
        """What to do, in a sentence or two."""
        if not self.low:
            return (
                "The queries asked for nearly the same at both ends of every window, so each "
                "sample was compared with queries that were current when it was seen."
            )
        if len(self.windows) == 1:
            steps = int(self.windows["end_step"].iloc[0] - self.windows["start_step"].iloc[0])
            every = f", here for instance {max(1, steps // 4)}"
        else:
            lengths = self.windows["end_step"] - self.windows["start_step"]
            every = f", now {max(1, int(lengths.median()))}"
        return (
            f"In {self.low} of {len(self.windows)} windows ({self.rows_low:.0%} of the rows) the "
            f"model moved so far that what the queries asked for at the start no longer held at "
            "the end: those samples were compared with queries that had gone stale. Take shorter "
            f"windows (influence.refresh_queries_every_n_steps{every}), or train with a lower "
            "learning rate or a warm-up. Rankings by fisher use both ends of a window and suffer "
            "less than cosine or tracin."
        )


def find_drift(windows: pd.DataFrame, warn: float = DRIFT_WARN) -> Drift | None:
    """What the store's windows say of drift; None where no window has one (no queries, frozen).

    Args:
        windows: `InfluenceStore.windows`.
        warn: cosines below this are low.
    """
    known = windows[np.isfinite(windows["drift"].to_numpy(dtype=float))]
    if not len(known):
        return None
    drift = known["drift"].to_numpy(dtype=float)
    rows = known["n_rows"].to_numpy(dtype=float)
    weights = rows if rows.sum() > 0 else np.ones_like(rows)
    return Drift(
        windows=known,
        low=int(np.count_nonzero(drift < warn)),
        mean=float(np.average(drift, weights=weights)),
        rows_low=float(weights[drift < warn].sum() / weights.sum()),
        warn=warn,
    )


def plot_drift(found: Drift) -> Figure:
    """Drift of each window over the steps of the run, with the warn line."""
    figure = Figure(figsize=(8, 3.1), layout="constrained")
    axes = figure.subplots()
    starts = found.windows["start_step"].to_numpy(dtype=float)
    ends = np.maximum(found.windows["end_step"].to_numpy(dtype=float), starts + 1)
    drift = found.windows["drift"].to_numpy(dtype=float)
    if len(drift) <= _BARS:
        gap = 0.006 * (ends.max() - starts.min())
        for window, start, end, value in zip(
            found.windows["window"].tolist(), starts, ends, drift, strict=True
        ):
            colour = ACCENT if value >= found.warn else _LOW
            [bar] = axes.bar(start, value, width=end - start - gap, align="edge", color=colour)
            hover(bar, f"window {window}, steps {start:.0f} to {end:.0f}: drift {value:.2f}")
            if len(drift) <= 16:
                axes.annotate(
                    f"{value:.2f}",
                    xy=((start + end - gap) / 2, value),
                    xytext=(0, 3 if value >= 0 else -3),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if value >= 0 else "top",
                    fontsize=8,
                    color=INK,
                )
    else:
        middle = (starts + ends) / 2
        axes.plot(middle, drift, color=ACCENT, linewidth=1.4)
        low = drift < found.warn
        axes.plot(middle[low], drift[low], "o", color=_LOW, markersize=3)
    axes.axhline(found.warn, color=_LOW, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"low: below {found.warn:g}",
        xy=(1, found.warn),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=_LOW,
        annotation_clip=False,
    )
    axes.axhline(0, color=GRID, linewidth=0.8)
    tidy(axes)
    axes.set_ylim(min(0.0, drift.min() - 0.12), 1.1)
    axes.set_xlim(starts.min(), ends.max())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("optimizer step", color=INK, fontsize=9)
    axes.set_ylabel("drift (cosine)", color=INK, fontsize=9)
    return figure


def drift_sections(windows: pd.DataFrame) -> list[Section]:
    """What the drift of a store's windows says; empty where none has one."""
    found = find_drift(windows)
    if found is None:
        return []
    columns, lines = found.table()
    n = len(found.windows)
    which = f"The {SHOWN} windows with the lowest drift" if n > SHOWN else "All windows"
    return [
        Section(
            "Did the model move too fast?",
            [
                Text(found.advice(), terms=["window", "drift"]),
                Chart(
                    plot_drift(found),
                    f"Drift of {n:,} windows; mean over the rows {found.mean:.2f}. 1: the queries' "
                    "gradients point the same way at both ends of the window; 0: they have "
                    "nothing in common any more.",
                    "charts/drift.png",
                    terms=["drift"],
                ),
                Folded(which, [Table(columns, lines)]),
            ],
        )
    ]
