"""The report of samples that were scored from their text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from influcoder_lightning.influence.doubts import SURE, doubts
from influcoder_lightning.report.findings.distribution import describe_scores, plot_distribution
from influcoder_lightning.report.press.blocks import (
    Block,
    Chart,
    Code,
    Number,
    Numbers,
    Samples,
    Section,
    Table,
    Text,
)
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.scoring.result import Sample, ScoredPool

_SHOWN = 200  # of the best, and of the worst
_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Cost:
    """Rows scored by this run, the seconds that took, and by how many processes."""

    n_rows: int
    seconds: float
    processes: int

    def __str__(self) -> str:
        if not self.n_rows:
            return "all scored before"
        return f"{self.n_rows / max(self.seconds, 1e-9):,.0f}"


def score_sections(
    cfg: Settings,
    folder: Path,
    scored: ScoredPool,
    tasks: list[str] | None,
    chosen: Sequence[Sample],
    cost: Cost,
) -> list[Section]:
    """What the page of scored samples says.

    Args:
        cfg: the configuration.
        folder: of the run.
        scored: the pool.
        tasks: task of each sample, or None.
        chosen: rows that were selected, or none.
        cost: of scoring.
    """
    return [
        _opening(cfg, scored, chosen, cost),
        _distribution(scored, tasks, len(chosen)),
        _samples(scored),
        _confidence(scored),
        _next_steps(folder, bool(chosen)),
    ]


def _opening(cfg: Settings, scored: ScoredPool, chosen: Sequence[Sample], cost: Cost) -> Section:
    ranking = scored.ranking
    assert ranking.confidence is not None
    confident = float(np.mean(ranking.confidence >= SURE))
    numbers = [
        Number("samples", f"{len(ranking):,}"),
        Number("confident", f"{confident:.0%}", f"confidence of at least {SURE}"),
        Number("rows per second", str(cost), f"processes: {cost.processes}"),
    ]
    if chosen:
        numbers.insert(1, Number("selected", f"{len(chosen):,}", cfg.select.strategy))
    return Section(
        f"{len(ranking):,} samples, scored from their text",
        [
            Text(
                f"{cfg.data.pool} was scored towards the {ranking.metadata['n_queries']} queries "
                f"of {cfg.queries or cfg['from']}. The text tower of that run guesses from prompt "
                "and response which way each sample would move the model; a high score means the "
                "way that the queries ask for.",
                terms=("queries", "score"),
            ),
            *map(Text, doubts(ranking)),
            Numbers(numbers),
        ],
    )


def _distribution(scored: ScoredPool, tasks: list[str] | None, k: int) -> Section:
    found = describe_scores(scored.ranking, k or None)
    assert found is not None  # scores that are not finite were refused
    figure, beyond = plot_distribution(scored.ranking, found, tasks)
    more = f" {beyond:,} lie beyond the axis and are in its end bars." if beyond else ""
    caption = f"Scores of all samples; {found.positive:.0%} are above 0.{more}"
    return Section("How the scores are spread", [Chart(figure, caption, "scores.png")])


def _samples(scored: ScoredPool) -> Section:
    ranking = scored.ranking
    shown = min(_SHOWN, len(ranking))
    samples = scored.pick({*ranking.top_k(shown), *ranking.bottom_k(shown)})
    columns = ["rank", "score", "confidence", "sample", "task", "prompt", "response"]
    rows = [
        [s.rank, s.score, s.confidence, str(s.id), s.row.get("task"), s.row["prompt"],
         s.row["response"]]
        for s in samples
    ]  # fmt: skip
    few = min(8, len(rows))
    marks = {"best": range(few), "worst": range(len(rows) - 1, len(rows) - 1 - few, -1)}
    note = "" if len(rows) == len(ranking) else f" The {shown} best and the {shown} worst."
    return Section(
        "Best and worst samples",
        [
            Text(f"Look at them before you train on them.{note}"),
            Samples(columns, rows, marks, total=len(ranking)),
        ],
    )


def _confidence(scored: ScoredPool) -> Section:
    ranking = scored.ranking
    assert ranking.confidence is not None
    counts, _ = np.histogram(ranking.confidence, _EDGES)
    best = ranking.confidence[ranking.ranks <= max(1, len(ranking) // 10)]
    of_best, _ = np.histogram(best, _EDGES)
    rows = [
        [f"{low} to {high}", int(count), f"{count / len(ranking):.1%}", f"{top / len(best):.1%}"]
        for low, high, count, top in zip(_EDGES, _EDGES[1:], counts, of_best, strict=False)
    ]
    blocks: list[Block] = [
        Text(
            "The tower states for each sample how alike its guess and the truth are expected to "
            "be, as a cosine. Trust the confident samples; where it matters, spend exact "
            "gradients on the others (recipe=valuate on these rows).",
        ),
        Table(["confidence", "samples", "share of all", "share of the best 10 %"], rows),
    ]
    return Section("How sure the scores are", blocks)


def _next_steps(folder: Path, chosen: bool) -> Section:
    at = shlex.quote(str(folder))
    again = Text(
        "To choose other rows, repeat the command of this run with resume=true and another "
        "select.k: nothing is scored again."
    )
    retrain: list[Block] = [
        Text("Train a LoRA on the chosen rows:"),
        Code(f"influcoder recipe=retrain from={at}"),
    ]
    return Section("Go on from here", [again, *(retrain if chosen else [])])
