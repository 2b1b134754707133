"""The page of a run's queries: which of them the training helped, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from influcoder_lightning.report.press.blocks import (
    Chart,
    Folded,
    Number,
    Numbers,
    Section,
    Table,
    Text,
)
from influcoder_lightning.report.press.style import ACCENT, INK, OTHER, hover, tidy

_SHOWN = 200  # queries of the table, and lines of the chart


def query_sections(
    table: pd.DataFrame, figures: Mapping[str, Any], texts: Sequence[Mapping[str, str]] | None
) -> list[Section]:
    """What the page says.

    Args:
        table: of `recipes.queries.takes`.
        figures: what is in ``queries.json``.
        texts: of the queries in their order, or None.
    """
    losses = table.groupby("query_id", sort=False)["loss"].agg(["first", "last"])
    losses["change"] = losses["last"] - losses["first"]
    prompts = [""] * len(losses) if texts is None else [text["prompt"] for text in texts]
    losses["prompt"] = [" ".join(prompt.split())[:160] for prompt in prompts]
    verb = "fell" if figures["last"] < figures["first"] else "did not fall"
    lead = (
        f"The queries' mean loss {verb}: {figures['first']:.3f} at the start, "
        f"{figures['last']:.3f} at the end; it fell for {figures['fell']:,} of "
        f"{figures['queries']:,} queries."
    )
    worst = losses.sort_values("change", ascending=False).head(_SHOWN)
    rows = [
        [str(name), row.first, row.last, row.change, row.prompt]
        for name, row in zip(worst.index, worst.itertuples(), strict=True)
    ]
    return [
        Section(
            "How the queries fared",
            [
                Text(lead, lead=True, terms=["query"]),
                Numbers(
                    [
                        Number("queries", f"{figures['queries']:,}"),
                        Number("windows", f"{figures['windows']:,}"),
                        Number("loss at the end", f"{figures['last']:.3f}", "nats per token"),
                    ]
                ),
                Chart(
                    query_figure(table),
                    "Loss of each query (grey) and their mean (blue), in nats per response token, "
                    "where a window starts and at the end.",
                    "queries.png",
                    terms=["nats", "window"],
                ),
                Folded(
                    "Every query, those first that the training helped least",
                    [Table(["query", "loss at first", "at the end", "change", "prompt"], rows)],
                ),
            ],
        )
    ]


def query_figure(table: pd.DataFrame) -> Figure:
    """Losses over the steps of the run."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, one in list(table.groupby("query_id", sort=False))[:_SHOWN]:
        [line] = axes.plot(one["step"], one["loss"], color=OTHER, linewidth=0.7)
        hover(line, f"query {name}: {one['loss'].iloc[0]:.3f} to {one['loss'].iloc[-1]:.3f}")
    mean = table.groupby("step")["loss"].mean()
    axes.plot(mean.index, mean, color=ACCENT, linewidth=2, marker="o", markersize=3)
    tidy(axes)
    axes.set_xlabel("optimizer step", color=INK, fontsize=9)
    axes.set_ylabel("loss (nats per response token)", color=INK, fontsize=9)
    return figure
