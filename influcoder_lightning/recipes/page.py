"""The sections of `report.md`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from influcoder_lightning import Ranking
from influcoder_lightning.recipes.materials import Materials, Split
from influcoder_lightning.report import (
    Code,
    Figure,
    Files,
    Section,
    Text,
    arms_table,
    sample_table,
)

_CONTENT = {
    "config.yaml": "every setting, library versions and the command of this run",
    "ranking.csv": "score and rank of every sample (rank 1 is the most helpful)",
    "selected.jsonl": "the chosen rows with their influence score",
    "comparison.json": "held-out losses of all arms and seeds",
    "comparison.csv": "the same as a table",
    "influence": "the influence store: codes of all samples and queries, and the towers",
    "adapter": "the LoRA trained on the chosen rows (first seed)",
    "data": "the built-in rows of this run",
    "model": "the tiny model that was fine-tuned, and its tokenizer",
    "planted.json": "how the planted rows were ranked",
}
_SHOWN = 8


def opening(title: str, materials: Materials, folder: Path) -> Section:
    """What was done to what."""
    cfg = materials.cfg
    queries = f"{materials.n_queries:,} query rows" if materials.n_queries else "no queries"
    lines = [
        Text(
            f"Pool: {len(materials.pool):,} rows. Towards: {queries}. Model: {cfg.model.name}. "
            f"Ranked by {cfg.rank.method}: a higher score means that learning from the sample "
            "moves the model in the direction that the queries ask for."
        ),
        Text("Command:"),
        Code(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    ]
    return Section(title, lines)


def ranking_section(ranking: Ranking, pool: Split, figure: str = "ranking.png") -> Section:
    """Figure, best and worst samples."""
    rows, ids = pool.rows, pool.ids
    shown = min(_SHOWN, ranking.n_scored)
    return Section(
        "The ranking",
        [
            Figure(figure, "Score of each sample, best first, and what kind of sample lies where."),
            Text(f"The {shown} most helpful samples:"),
            sample_table(ranking, rows, ids, ranking.top_k(shown), limit=80),
            Text(f"The {shown} least helpful samples, worst first:"),
            sample_table(ranking, rows, ids, ranking.bottom_k(shown), limit=80),
        ],
    )


def comparison_section(comparison: Mapping[str, Any]) -> Section:
    """Figure, table and what they say."""
    k, steps, seeds = (comparison[name] for name in ("k", "steps", "seeds"))
    return Section(
        "Does the ranking hold what it promises?",
        [
            *(Text(line) for line in verdict(comparison)),
            Figure("comparison.png", "Held-out loss of each arm; further left is better."),
            arms_table(comparison),
            Text(
                f"Each run trains a fresh LoRA for {steps} steps: on the {k} best samples (top_k), "
                f"{k} drawn at random (random_k, drawn anew for each seed), the {k} worst "
                "(bottom_k) or all of them (full); base is the model before training. The loss is "
                "the mean over all response tokens of the held-out rows, in nats. Intervals are "
                f"95 % Student t intervals over {seeds} seeds."
            ),
        ],
    )


def verdict(comparison: Mapping[str, Any]) -> list[str]:
    """Whether top_k < random_k < bottom_k held, how sure that is, and how full did."""
    means = {name: arm["mean"] for name, arm in comparison["arms"].items()}
    order = ["top_k", "random_k", "bottom_k"]
    if not set(order) <= set(means):
        return []
    numbers = ", ".join(f"{name} {means[name]:.3f}" for name in order)
    held = means["top_k"] < means["random_k"] < means["bottom_k"]
    lines = [
        f"Held-out loss: {numbers}. The order top_k < random_k < bottom_k "
        + ("held in this run." if held else "did NOT hold in this run.")
    ]
    intervals = {name: comparison["arms"][name]["ci95"] for name in order}
    for better, worse in pairwise(order):
        first, second = intervals[better], intervals[worse]
        if first and second and first[1] >= second[0] and second[1] >= first[0]:
            lines.append(
                f"The 95 % intervals of {better} and {worse} overlap: {comparison['seeds']} seeds "
                "do not settle the order of these two."
            )
    if "full" in means:
        better = "lower" if means["top_k"] < means["full"] else "not lower"
        lines.append(
            f"With the same number of steps, training on all samples gives {means['full']:.3f}; "
            f"top_k is {better}."
        )
    return lines


def files_section(folder: Path) -> Section:
    """What lies in the run folder."""
    found = [(name, content) for name, content in _CONTENT.items() if (folder / name).exists()]
    return Section("Files", [Files(found)])


def next_steps(folder: Path) -> Section:
    """Commands that continue this run."""
    at = shlex.quote(str(folder))
    return Section(
        "Go on from here",
        [
            Text("Choose another number of samples:"),
            Code(f"influcoder recipe=select from={at} select.k=50"),
            Text("Rank by another method and compare again:"),
            Code(f"influcoder recipe=compare from={at} rank.method=tracin select.k=50"),
            Text("Rank the same samples towards other queries, without training again:"),
            Code(f"influcoder recipe=score from={at} queries=new.jsonl"),
        ],
    )


def tasks(pool: Split) -> dict[Any, str] | None:
    """Id -> task for the figure; None where no row has one."""
    if all(row.get("task") is None for row in pool.rows):
        return None
    return {
        name: row.get("task") or "no task" for name, row in zip(pool.ids, pool.rows, strict=True)
    }
