"""Figures and sections of recipe=lds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from influcoder_lightning.report.press.blocks import (
    Block,
    Chart,
    Number,
    Numbers,
    Section,
    Table,
    Text,
)
from influcoder_lightning.report.press.style import ACCENT, INK, MUTED, PALETTE, hover, label, tidy


def lds_headline(result: Mapping[str, Any]) -> list[Block]:
    """Which method predicts retraining best, and what bounds it."""
    best = max(result["rows"], key=lambda row: row["lds"])
    return [
        Numbers(
            [
                Number(
                    "best LDS", f"{best['lds']:.3f}", f"{best['name']} {_interval(best['ci95'])}"
                ),
                Number(
                    "seed agreement", f"{result['seed_agreement']:.3f}", "two models of a subset"
                ),
                Number("subsets", f"{result['n_subsets']:,}"),
                Number("seeds per subset", str(result["seeds_per_subset"])),
            ]
        ),
        Chart(
            lds_figure(result),
            "LDS of each method with its 95 % interval. Dashed line: agreement of two seeds.",
            "lds.png",
            terms=["LDS"],
        ),
    ]


def lds_sections(result: Mapping[str, Any]) -> list[Section]:
    """Table and figures."""
    low, high = result["seed_agreement_ci95"]
    bound = (
        f"Two seeds of the same subsets agree at {result['seed_agreement']:.3f} "
        f"[{low:.3f}, {high:.3f}]: what one training can know of another. Against the mean of "
        f"{result['seeds_per_subset']} seeds, a perfect prediction would reach about "
        f"{result['ceiling']:.3f} (Spearman and Brown)."
    )
    parts: list[Block] = [
        Text(bound),
        lds_table(result["rows"]),
        Text(
            "Aggregated: the same for scores and losses averaged over the queries. The last column "
            "is the first method's LDS minus this one's, paired: an interval that is clear of zero "
            "is a difference."
        ),
    ]
    sections = [Section("Linear datamodeling score", parts)]
    if "removal" in result:
        sections.append(
            Section(
                "Without the best samples",
                [
                    Text(
                        "Change of the mean query loss (nats per response token) after retraining "
                        "without the samples that score best, against training on all; beside it "
                        "as many samples drawn at random."
                    ),
                    Chart(
                        removal_figure(result["removal"]),
                        "Change of the query loss without the best samples. Higher: more was "
                        "lost. Bars: 95 % over queries.",
                        "removal.png",
                    ),
                    removal_table(result["removal"]),
                ],
            )
        )
    return sections


def lds_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per method."""
    lines = []
    for row in rows:
        behind = row.get("first_minus_this")
        lines.append(
            [
                row["name"],
                f"{row['lds']:.3f} {_interval(row['ci95'])}",
                row["aggregated"],
                None if behind is None else f"{behind['mean']:.3f} {_interval(behind['ci95'])}",
            ]
        )
    return Table(["method", "LDS", "aggregated", f"{rows[0]['name']} minus this"], lines)


def removal_table(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """One line per share, one column per method."""
    names = list(curves)
    lines = []
    for place, first in enumerate(curves[names[0]]):
        cells = [
            f"{curves[name][place]['mean']:+.4f} {_interval(curves[name][place]['ci95'], 4)}"
            for name in names
        ]
        lines.append([f"{first['share']:.0%}", first["n_removed"], *cells])
    return Table(["share", "removed", *names], lines)


def lds_figure(result: Mapping[str, Any]) -> Canvas:
    """LDS of every method with its interval, best on top, and the agreement of two seeds."""
    rows = sorted(result["rows"], key=lambda row: row["lds"])
    canvas = Canvas(figsize=(6.8, 1.4 + 0.34 * len(rows)), layout="constrained")
    axes = canvas.subplots()
    first = result["rows"][0]["name"]
    for place, row in enumerate(rows):
        low, high = row["ci95"]
        colour = ACCENT if row["name"] == first else MUTED
        (bar,) = axes.barh(place, row["lds"], color=colour, height=0.62)
        hover(bar, f"{row['name']}: {row['lds']:.3f} {_interval(row['ci95'])}")
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
    axes.set_yticks(range(len(rows)), [label(row["name"], 40) for row in rows])
    bound = result["seed_agreement"]
    axes.axvline(bound, color=PALETTE[5], linestyle="--", linewidth=1.2)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(
        "LDS: rank correlation with real retraining (dashed: two seeds)", fontsize=9, color=INK
    )
    tidy(axes, grid="x")
    return canvas


def removal_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Canvas:
    """Change of query loss against the share removed."""
    canvas = Canvas(figsize=(7, 4), layout="constrained")
    axes = canvas.subplots()
    names = [*(name for name in curves if name != "random"), "random"]
    for colour, name in zip([*PALETTE[: len(names) - 1], MUTED], names, strict=False):
        line = curves[name]
        x = [100 * point["share"] for point in line]
        y = [point["mean"] for point in line]
        down = [point["mean"] - point["ci95"][0] for point in line]
        up = [point["ci95"][1] - point["mean"] for point in line]
        axes.errorbar(x, y, [down, up], color=colour, marker="o", ms=4, capsize=2, label=name)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("per cent of the pool removed", fontsize=9, color=INK)
    axes.set_ylabel("change of query loss [nats]", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False)
    tidy(axes)
    return canvas


def _interval(ends: Sequence[float], digits: int = 3) -> str:
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
