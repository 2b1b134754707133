"""Figures of recipe=fidelity: quality against cost, against data, against m."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from influcoder_lightning.report.press.blocks import Table
from influcoder_lightning.report.press.style import INK, MUTED, PALETTE, hover, label, tidy
from influcoder_lightning.studies.fidelity.method_rows import Line

_COLOURS = dict(
    zip(("feature", "code", "forward", "text", "baseline"), (*PALETTE[:4], MUTED), strict=True)
)
_SHOWN = ("gradient tower, 128 float16, length kept", "text tower", "published objective")


def fidelity_table(rows: Sequence[Line], adapter: str) -> Table:
    """Every method of one state of the adapter."""
    lines = []
    for row in rows:
        if row["adapter"] != adapter:
            continue
        spread = row["spread"]
        lines.append(
            [
                row["name"],
                row["kind"],
                _with_spread(row["per_query"], spread["per_query"]),
                _with_spread(row["aggregated"], spread["aggregated"]),
                f"{row['ms_per_sample']:.2f}",
                f"{row['bytes_per_sample']:,.0f}",
                f"{row['n_fit']:,.0f}",
            ]
        )
    columns = [
        "method",
        "kind",
        "per query",
        "aggregated",
        "CPU ms/sample",
        "bytes",
        "learned from",
    ]
    return Table(columns, lines, limit=80)


def quality_figure(rows: Sequence[Line]) -> Figure:
    """Per-query rho against CPU time and against bytes, one point per method, a row per state."""
    states = list(dict.fromkeys(row["adapter"] for row in rows))
    figure = Figure(figsize=(9.5, 4.2 * len(states)), layout="constrained")
    grid = figure.subplots(len(states), 2, squeeze=False)
    for line, state in zip(grid, states, strict=True):
        mine = [row for row in rows if row["adapter"] == state]
        for axes, key, unit in (
            (line[0], "ms_per_sample", "CPU milliseconds per new sample"),
            (line[1], "bytes_per_sample", "bytes kept per sample"),
        ):
            _scatter(axes, mine, key)
            axes.set_xlabel(unit, fontsize=9, color=INK)
            axes.set_ylabel("rho per query", fontsize=9, color=INK)
            axes.set_title(f"{state} adapter", loc="left", fontsize=11, color=INK)
    handles = [
        grid[0][0].scatter([], [], color=colour, s=30, label=kind)
        for kind, colour in _COLOURS.items()
    ]
    grid[0][0].legend(handles=handles, fontsize=8, frameon=False, loc="lower right")
    return figure


def curve_figure(curve: Sequence[Line]) -> Figure:
    """Both rhos against the number of pool samples learned from."""
    states = list(dict.fromkeys(line["adapter"] for line in curve))
    figure = Figure(figsize=(9.5, 4 * len(states)), layout="constrained")
    grid = figure.subplots(len(states), 2, squeeze=False)
    for row, state in zip(grid, states, strict=True):
        names = [
            name
            for name in dict.fromkeys(line["name"] for line in curve)
            if name in _SHOWN or name.startswith("forward")
        ]
        for axes, key in zip(row, ("per_query", "aggregated"), strict=True):
            for colour, name in zip(PALETTE, names, strict=False):
                points = sorted(
                    (line["n_pool"], line[key], line["spread"][key] or 0.0)
                    for line in curve
                    if line["name"] == name and line["adapter"] == state
                )
                if points:
                    x, y, error = zip(*points, strict=True)
                    axes.errorbar(
                        x,
                        y,
                        error,
                        color=colour,
                        marker="o",
                        ms=4,
                        capsize=2,
                        label=label(name, 44),
                    )
            axes.set_xscale("log")
            axes.set_xlabel("pool samples learned from", fontsize=9, color=INK)
            axes.set_ylabel(f"rho, {key.replace('_', ' ')}", fontsize=9, color=INK)
            axes.set_title(f"{state} adapter", loc="left", fontsize=11, color=INK)
            tidy(axes)
        row[0].legend(fontsize=8, frameon=False)
    return figure


def cascade_figure(lines: Sequence[Line]) -> Figure:
    """Rho and top-k precision against the number of exact gradients."""
    states = list(dict.fromkeys(line["adapter"] for line in lines))
    keys = {
        "per_query": "rho per query",
        "aggregated": "rho aggregated",
        "top_k_precision": f"precision of the top {lines[0]['k']}",
    }
    figure = Figure(figsize=(10.5, 3.6 * len(states)), layout="constrained")
    grid = figure.subplots(len(states), 3, squeeze=False)
    for row, state in zip(grid, states, strict=True):
        mine = [line for line in lines if line["adapter"] == state]
        for axes, (key, name) in zip(row, keys.items(), strict=True):
            for colour, choice in zip(PALETTE, ("cascade", "random"), strict=False):
                x = [line["m"] for line in mine]
                y = [line[choice][key] for line in mine]
                axes.plot(x, y, color=colour, marker="o", ms=4, label=f"m by {choice}")
            axes.set_xlabel("exact gradients m", fontsize=9, color=INK)
            axes.set_title(f"{name}, {state} adapter", loc="left", fontsize=10, color=INK)
            tidy(axes)
        row[0].legend(fontsize=8, frameon=False)
    return figure


def _scatter(axes: Axes, rows: Sequence[Line], key: str) -> None:
    shown = [row for row in rows if row[key] > 0]
    for row in shown:
        dot = axes.scatter(row[key], row["per_query"], color=_COLOURS[row["kind"]], s=28, zorder=3)
        hover(dot, f"{row['name']}: {row['per_query']:.3f}")
    best: list[Line] = []  # only what nothing cheaper beats gets a name
    for row in sorted(shown, key=lambda row: (row[key], -row["per_query"])):
        if not best or row["per_query"] > best[-1]["per_query"] + 0.02:  # else names overlap
            best.append(row)
    middle = np.sqrt(min(row[key] for row in shown) * max(row[key] for row in shown))
    for row in best:
        right = row[key] > middle  # names grow towards the middle of the figure
        axes.annotate(
            label(row["name"], 44),
            (row[key], row["per_query"]),
            xytext=(-6 if right else 6, -3),
            ha="right" if right else "left",
            textcoords="offset points",
            fontsize=7,
            color=INK,
        )
    axes.set_xscale("log")
    tidy(axes)


def _with_spread(value: float, spread: float | None) -> str:
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"
