"""The figure of the benchmark `planted`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = {
    "toxicity_auprc": "20 unsafe among 2,000: AUPRC",
    "corrupted_auprc": "10 % corrupted answers: AUPRC",
    "facts_recall_at_50": "facts: Recall@50",
    "facts_mrr": "facts: MRR",
    "duplicates_auprc": "duplicates: AUPRC",
    "off_task_auprc": "rows of another task: AUPRC",
}
OURS = ("cosine", "projected_cosine", "fisher", "relatif", "tracin", "encoder", "self", "loss")


def plot(result: dict[str, Any], path: Path) -> None:
    """One panel a question: every method with its interval, lines at chance, TF-IDF and goal."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from influcoder_lightning.report.press.style import ACCENT, INK, MUTED, PALETTE, tidy

    mpl.rcParams["svg.hashsalt"] = "planted"  # the same bytes for the same figures
    panels = [name for name in PANELS if name in result]
    rows = -(-len(panels) // 2)
    figure, grid = plt.subplots(rows, 2, figsize=(9.6, 3.4 * rows), layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, name in zip(grid.flat, panels, strict=False):
        methods = {m: v for m, v in result[name].items() if m not in ("chance", "tfidf")}
        methods = {m: v for m, v in methods.items() if "best query" not in m}
        order = sorted(methods, key=lambda method: methods[method]["mean"])
        for place, method in enumerate(order):
            entry = methods[method]
            colour = ACCENT if method in OURS else PALETTE[1]
            if entry["ci95"]:
                ends = [min(max(end, 0), 1) for end in entry["ci95"]]
                axes.plot(ends, [place, place], color=colour, linewidth=2, alpha=0.5)
            axes.plot(entry["mean"], place, "o", color=colour, markersize=6)
        lines = {"chance": (MUTED, ":"), "tfidf": (PALETTE[5], "-")}
        for method, (colour, style) in lines.items():
            mean = result[name][method]["mean"]
            axes.axvline(mean, color=colour, linestyle=style, label=f"{method} {mean:.2f}")
        if name in result["goals"]:
            goal = result["goals"][name]
            axes.axvline(goal, color=INK, linestyle="--", label=f"goal {goal:.2f}")
        axes.set_yticks(range(len(order)), order)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.set_title(PANELS[name], loc="left", fontsize=11, color=INK, fontweight="bold")
        tidy(axes, grid="x")
        axes.legend(
            fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, -0.3), ncol=3
        )
    seeds = len({run["seed"] for run in result["runs"]})
    note = f"blue: ours; orange: baselines; bars: 95 % t intervals of the mean; seeds: {seeds}"
    figure.suptitle(note, x=0.01, ha="left", fontsize=9, color=MUTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
