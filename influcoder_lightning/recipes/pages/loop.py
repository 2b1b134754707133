"""`loop.json`, `loop.csv` and the sections of a loop's report."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from influcoder_lightning.files import durable_path
from influcoder_lightning.report.findings.comparison import Arm, Comparison
from influcoder_lightning.report.press.blocks import Chart, Section, Table, Text
from influcoder_lightning.report.press.style import ACCENT, INK, MUTED, OTHER, PALETTE, hover, tidy
from influcoder_lightning.spreadsheet import as_cell

_ARMS = {
    "loop": "what the loop kept in its best round",
    "one_shot": "as many, the best of the first round's ranking",
    "random_k": "as many, drawn at random, anew for each seed",
    "full": "all samples",
    "full_equal_compute": "all samples, for all the steps that the loop took",
    "base": "the model before training",
}
_COLOURS = {"loop": ACCENT, "one_shot": PALETTE[1], "full": PALETTE[2]} | {
    "full_equal_compute": PALETTE[2]
}
_COLUMNS = ("kind", "name", "n_samples", "steps", "query_loss", "eval_loss", "ci95_low",
            "ci95_high")  # fmt: skip


class LoopResult(Comparison):
    """The content of `loop.json`; an arm has its n and steps, too."""

    rounds: list[dict[str, Any]]
    stopped: str
    best_round: int
    cost: dict[str, dict[str, float]]


def write_loop(folder: Path, result: LoopResult) -> None:
    """Write `loop.json` and `loop.csv` (a line per round and per arm).

    Args:
        folder: of the run.
        result: of the loop.
    """
    with durable_path(folder / "loop.json") as part:
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")
    lines: list[list[object]] = []
    for r in result["rounds"]:
        steps = r["valuation_steps"] + r["retraining_steps"]
        lines.append(["round", r["round"], r["n_kept"], steps, r["query_loss"], None, None, None])
    for name, arm in _ordered(result["arms"]).items():
        interval = arm["ci95"] or (None, None)
        lines.append(["arm", as_cell(name), arm["n"], arm["steps"], None, arm["mean"], *interval])
    with durable_path(folder / "loop.csv") as part, part.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *lines])


def verdict(result: LoopResult) -> list[str]:
    """How the loop's choice did against each other arm, and how sure that is."""
    arms = result["arms"]
    loop, lines = arms["loop"], []
    for name, what in _ARMS.items():
        if name in ("loop", "base"):
            continue
        other = arms[name]
        if other["eval_loss"] == loop["eval_loss"]:
            lines.append(f"Loop and {name} are the same samples and steps: {loop['mean']:.4f}.")
            continue
        way = "lower than" if loop["mean"] < other["mean"] else "not lower than"
        line = f"Loop {loop['mean']:.4f} is {way} {name} {other['mean']:.4f} ({what})"
        lines.append(f"{line}; {_apart(loop['ci95'], other['ci95'])}.")
    return lines


def loop_sections(result: LoopResult, settings: Mapping[str, Any]) -> list[Section]:
    """What the loop did, what came of it, what it cost, and where everything is.

    Args:
        result: as for `write_loop`.
        settings: the section ``loop`` of the configuration.
    """
    share = f"{100 * settings['share']:g} % of"
    kept = f"keeps the best {share} the samples"
    if settings["action"] == "drop":
        low = settings["threshold"]
        kept = (
            f"drops the worst {share} the samples" if low is None else f"drops scores below {low}"
        )
    rows = (
        "the query rows, which also rank"
        if settings["held_out"] == 0
        else f"{100 * settings['held_out']:g} % of the query rows, which do not rank"
    )
    seeds, total = result["seeds"], result["cost"]["steps"]["total"]
    return [
        Section(
            "What the loop did",
            [
                Text(
                    f"Each round values the present samples with a fresh LoRA, {kept}, and trains "
                    f"another fresh LoRA on what is left for {result['steps']} steps. Round 0 is "
                    "the whole pool without a choice. The stop rule and the choice of the round "
                    f"see only the loss on {rows}; the evaluation rows are measured once, below."
                ),
                Text(f"The loop stopped: {result['stopped']}. Best round: {result['best_round']}."),
                rounds_chart(result),
                rounds_table(result),
            ],
        ),
        Section(
            "Is the loop's choice worth it?",
            [
                *(Text(line) for line in verdict(result)),
                loop_arms_table(result),
                Text(
                    f"Loss: mean over all response tokens, in nats; 95 % Student t intervals over "
                    f"{seeds} seeds. Every arm but full_equal_compute trains for "
                    f"{result['steps']} steps, as the final model of a choice does. The search for "
                    f"the choice took {total} steps itself, which full_equal_compute spends on "
                    "all samples instead."
                ),
            ],
        ),
        Section("What the loop cost", [_cost_table(result["cost"])]),
    ]


def rounds_table(result: LoopResult) -> Table:
    """Samples, steps and query loss of each round."""
    columns = ["round", "valued", "kept", "loss on held-out queries", "valuation steps"]
    lines = [
        [r["round"], r["n_pool"] if r["round"] else None, r["n_kept"], r["query_loss"],
         r["valuation_steps"], r["retraining_steps"]]
        for r in result["rounds"]
    ]  # fmt: skip
    return Table([*columns, "retraining steps"], lines)


def loop_arms_table(result: LoopResult) -> Table:
    """Samples, steps, loss and interval of each arm."""
    lines = [
        [name, arm["n"], arm["steps"], arm["mean"], *(arm["ci95"] or (None, None)), _ARMS[name]]
        for name, arm in _ordered(result["arms"]).items()
    ]
    return Table(["arm", "samples", "steps", "mean loss", "95 % from", "to", "trained on"], lines)


def loop_chart(result: LoopResult) -> Chart:
    """The loss of each arm on the evaluation rows."""
    figure = Figure(figsize=(6.8, 1.2 + 0.6 * (len(result["arms"]) - 1)), layout="constrained")
    _draw_arms(figure.subplots(), result)
    caption = "Held-out loss of each arm on the evaluation rows; further left is better."
    return Chart(figure, caption, "loop.png", terms=["held-out loss", "arm"])


def rounds_chart(result: LoopResult) -> Chart:
    """Query loss and kept samples of each round."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    loss, kept = figure.subplots(2, 1)
    _draw_rounds(loss, kept, result)
    caption = "Loss on the held-out queries, and samples left, after each round."
    return Chart(figure, caption, "rounds.png")


def _draw_rounds(loss: Axes, kept: Axes, result: LoopResult) -> None:
    rounds = result["rounds"]
    measured = [r for r in rounds if r["query_loss"] is not None]
    numbers, losses = ([r[key] for r in measured] for key in ("round", "query_loss"))
    loss.plot(numbers, losses, color=MUTED, marker="o", ms=5)
    best = result["best_round"]
    (value,) = (r["query_loss"] for r in measured if r["round"] == best)
    loss.plot([best], [value], "o", color=ACCENT, ms=9, label=f"best round: {best}")
    loss.legend(frameon=False, fontsize=8)
    loss.set_title("Loss on the held-out queries", loc="left", fontsize=10, color=INK)
    loss.set_ylabel("nats per token", fontsize=9, color=INK)
    bars = kept.bar(
        [r["round"] for r in rounds],
        [r["n_kept"] for r in rounds],
        width=0.6,
        color=[ACCENT if r["round"] == best else OTHER for r in rounds],
    )
    kept.bar_label(bars, fmt="{:,.0f}", fontsize=8, color=INK, padding=2)
    kept.margins(y=0.2)
    kept.set_title("Samples kept", loc="left", fontsize=10, color=INK)
    kept.set_xlabel("round (0: the whole pool)", fontsize=9, color=INK)
    for axes in (loss, kept):
        tidy(axes)
        axes.set_xlim(-0.5, len(rounds) - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    kept.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw_arms(axes: Axes, result: LoopResult) -> None:
    arms = {name: arm for name, arm in _ordered(result["arms"]).items() if name != "base"}
    for row, (name, arm) in enumerate(arms.items()):
        colour = _COLOURS.get(name, MUTED)
        said = f"{name}: mean {arm['mean']:.4f}"
        if arm["ci95"]:
            said += ", 95 % interval {:.4f} to {:.4f}".format(*arm["ci95"])
            axes.plot(arm["ci95"], [row, row], "|-", color=colour, linewidth=2.2, ms=9)
        losses = arm["eval_loss"]
        axes.plot(losses, [row + 0.22] * len(losses), "o", color=colour, ms=3, alpha=0.55)
        (mean,) = axes.plot([arm["mean"]], [row], "o", color=colour, ms=8)
        hover(mean, said)
        axes.annotate(
            f"{arm['mean']:.3f}",
            (arm["mean"], row),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    names = [f"{name}\n{arm['n']:,} samples, {arm['steps']:,} steps" for name, arm in arms.items()]
    axes.set_yticks(range(len(arms)), names)
    tidy(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(arms) - 0.5, -0.6)
    axes.set_title("Loss on the evaluation rows", loc="left", fontsize=10, color=INK)
    base = result["arms"]["base"]["mean"]
    note = f"nats per response token (left is better); base, not shown: {base:.3f}"
    axes.set_xlabel(note, fontsize=9, color=INK)


def _cost_table(cost: Mapping[str, Mapping[str, float]]) -> Table:
    lines = [
        [name, cost["steps"][name], cost["seconds"][name]] for name in ("valuation", "retraining")
    ]
    return Table(["all rounds", "optimizer steps", "seconds"], lines)


def _ordered(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    return {name: arms[name] for name in _ARMS if name in arms}


def _apart(first: list[float] | None, second: list[float] | None) -> str:
    if first is None or second is None:
        return "one seed says nothing about chance"
    overlap = first[1] >= second[0] and second[1] >= first[0]
    return f"their 95 % intervals {'overlap' if overlap else 'lie apart'}"
