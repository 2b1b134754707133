"""Arms of retraining side by side: `comparison.json`, `comparison.csv`, `comparison.png`."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from influcoder_lightning.errors import DataError
from influcoder_lightning.files import durable_path
from influcoder_lightning.spreadsheet import as_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Order of the arms for people; others follow as given.
_ORDER = ["top_k", "random_k", "bottom_k", "full", "base"]


class Arm(TypedDict):
    """Held-out losses of an arm; see `summarise_arms`. Of a loop also its samples and steps."""

    eval_loss: list[float]
    mean: float
    ci95: list[float] | None
    n: NotRequired[int]
    steps: NotRequired[int]


class Comparison(TypedDict):
    """The content of `comparison.json`."""

    k: int
    steps: int
    seeds: int
    arms: dict[str, Arm]


def summarise_arms(
    eval_losses: Mapping[str, Sequence[float]], k: int, steps: int, seeds: int
) -> Comparison:
    """The content of `comparison.json`.

    `mean` is over seeds, `ci95` the two-sided Student t interval of that mean; None for `base`,
    which is one untrained model, and for a single seed.

    Args:
        eval_losses: arm -> held-out loss of each seed, nats per response token.
        k: size of the chosen subsets.
        steps: optimizer steps of each run.
        seeds: number of seeds.

    Raises:
        DataError: no arms, an arm without one value per seed, `base` without exactly one, or a
            loss that is not finite.
    """
    if not eval_losses:
        raise DataError("there are no arms to compare; give eval losses of at least one")
    arms: dict[str, Arm] = {}
    for arm, given in eval_losses.items():
        values = [float(value) for value in given]
        expected = 1 if arm == "base" else seeds
        if len(values) != expected:
            raise DataError(
                f"arm {arm!r} has {len(values)} losses, expected {expected} "
                f"({'one model' if arm == 'base' else 'one per seed'}); did a run fail?"
            )
        if not all(math.isfinite(value) for value in values):
            raise DataError(
                f"arm {arm!r} has a loss that is not finite: {values}; that training diverged, "
                "lower its learning rate"
            )
        arms[arm] = {
            "eval_loss": values,
            "mean": float(np.mean(values)),
            "ci95": t_interval(values),
        }
    return {"k": int(k), "steps": int(steps), "seeds": int(seeds), "arms": arms}


def t_interval(values: Sequence[float]) -> list[float] | None:
    """Two-sided 95 % Student t interval of the mean; None for a single value."""
    from scipy import stats

    if len(values) < 2:
        return None
    # Not with loc and scale: of equal values they make NaN.
    reach = np.array(stats.t.interval(0.95, len(values) - 1)) * stats.sem(values)
    return (np.mean(values) + reach).tolist()


def write_comparison(folder: str | os.PathLike[str], comparison: Comparison) -> list[Path]:
    """Write `comparison.json`, `.csv` and `.png` into `folder`; returns their paths.

    Args:
        folder: made where it is missing.
        comparison: as `summarise_arms` returns it.
    """
    paths = [Path(folder) / f"comparison.{suffix}" for suffix in ("json", "csv", "png")]
    with durable_path(paths[0]) as part:
        text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")
    with durable_path(paths[1]) as part:
        _write_csv(part, comparison["arms"])
    plot_comparison(comparison, paths[2])
    return paths


def _write_csv(path: Path, arms: Mapping[str, Arm]) -> None:
    width = max(len(arm["eval_loss"]) for arm in arms.values())
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        runs = [f"eval_loss_{run}" for run in range(width)]
        writer.writerow(["arm", "mean", "ci95_low", "ci95_high", *runs])
        for name in arm_order(arms):
            arm = arms[name]
            losses = [*arm["eval_loss"], *[""] * (width - len(arm["eval_loss"]))]
            ends = ["", ""] if arm["ci95"] is None else arm["ci95"]
            writer.writerow([as_cell(name), arm["mean"], *ends, *losses])


def arm_order(arms: Iterable[str]) -> list[str]:
    """Names of the arms in the order people read them."""
    return sorted(arms, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def plot_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the figure of `comparison_figure`."""
    from influcoder_lightning.report.press.style import save_figure

    save_figure(comparison_figure(comparison), path)


def comparison_figure(comparison: Comparison, narrow: bool = False) -> Figure:
    """A figure of each arm's mean loss with its interval and its single runs.

    Args:
        comparison: as `summarise_arms` returns it.
        narrow: for a phone: without the title, which stands beside it there.
    """
    from matplotlib.figure import Figure

    from influcoder_lightning.report.press.style import (
        ACCENT,
        INK,
        MUTED,
        PALETTE,
        hover,
        label,
        tidy,
    )

    arms = comparison["arms"]
    names = arm_order(arms)
    colours = {"top_k": ACCENT, "bottom_k": PALETTE[5], "full": PALETTE[2]}
    low, high, cut = _axis_limits(arms)
    height = 0.5 * len(names) + (0.8 if narrow else 1.5)
    figure = Figure(figsize=(4.4 if narrow else 6.8, height), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(names):
        arm = arms[name]
        colour = colours.get(name, MUTED)
        if cut and name == "base":
            axes.annotate(
                f"{arm['mean']:.3f}, off the scale",
                xy=(high, row),
                xytext=(-34, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=9,
                color=INK,
                arrowprops={"arrowstyle": "->", "color": MUTED, "shrinkA": 3, "shrinkB": 0},
            )
            continue
        said = f"{name}: mean {arm['mean']:.4f}"
        if arm["ci95"]:
            said += ", 95 % interval {:.4f} to {:.4f}".format(*arm["ci95"])
            (bar,) = axes.plot(
                arm["ci95"], [row, row], "|-", color=colour, linewidth=2.4, ms=9, zorder=2
            )
            hover(bar, said)
        for seed, loss in enumerate(arm["eval_loss"] if len(arm["eval_loss"]) > 1 else [], start=1):
            (dot,) = axes.plot(
                [loss], [row + 0.24], "o", color=colour, ms=3.5, alpha=0.55, markeredgewidth=0
            )
            hover(dot, f"{name}, seed {seed}: {loss:.4f}")
        (mean,) = axes.plot([arm["mean"]], [row], "o", color=colour, markersize=8, zorder=3)
        hover(mean, said)
        axes.annotate(
            f"{arm['mean']:.3f}",
            xy=(arm["mean"], row),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    tidy(axes, grid="x")
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.tick_params(axis="y", length=0, labelsize=10)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.45, -0.6)
    axes.set_xlim(low, high)
    if narrow:
        axes.set_xlabel("held-out loss (left is better)", color=INK, fontsize=9)
        return figure
    axes.set_xlabel(
        "held-out loss, nats per response token (left is better)", color=INK, fontsize=9
    )
    axes.set_title(
        f"Retraining on k = {comparison['k']:,} samples, {comparison['steps']:,} steps",
        loc="left",
        fontsize=12,
        color=INK,
        fontweight="bold",
        pad=20,
    )
    seeds = comparison["seeds"]
    note = "bars: 95 % t interval of the mean; small dots: single seeds; seeds: "
    axes.text(0, 1.03, f"{note}{seeds}", transform=axes.transAxes, fontsize=9, color=MUTED)
    return figure


def _axis_limits(arms: Mapping[str, Arm]) -> tuple[float, float, bool]:
    """Left and right end of the loss axis, and whether `base` lies off it."""

    def span(names: Sequence[str]) -> tuple[float, float]:
        ends = [
            x for name in names for x in [*arms[name]["eval_loss"], *(arms[name]["ci95"] or [])]
        ]
        return min(ends), max(ends)

    low, high = span(list(arms))
    cut = False
    trained = [name for name in arms if name != "base"]
    if "base" in arms and trained:
        near, far = span(trained)
        # An untrained model far away would squeeze the arms that are to be told apart.
        cut = far > near and arms["base"]["mean"] - far > 2.5 * (far - near)
        if cut:
            low, high = near, far + 0.25 * (far - near)
    margin = 0.08 * (high - low) or max(abs(low), 1.0) * 0.05
    return low - margin, high + margin, cut
