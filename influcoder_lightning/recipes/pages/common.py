"""What the reports of all recipes have in common."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import yaml

from influcoder_lightning.data.census import Census
from influcoder_lightning.ids import SampleId
from influcoder_lightning.influence.doubts import doubts
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.findings.ambiguous import spread_over_queries
from influcoder_lightning.report.findings.comparison import Comparison, comparison_figure
from influcoder_lightning.report.findings.headline import cautions, headline_of
from influcoder_lightning.report.findings.ranking_curve import ranking_figure
from influcoder_lightning.report.findings.samples import samples_of
from influcoder_lightning.report.findings.tables import arms_table
from influcoder_lightning.report.press.blocks import (
    Block,
    Chart,
    Code,
    Files,
    Folded,
    Number,
    Numbers,
    Section,
    Table,
    Text,
)
from influcoder_lightning.report.press.html import write_page
from influcoder_lightning.run.outputs import n_lines
from influcoder_lightning.run.recipe import Output, present
from influcoder_lightning.run.run_folder import RANKING, shown_path
from influcoder_lightning.run.saved_config import CONFIG, load_config, read_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.split import Split
from influcoder_lightning.run.stages import stage

_SETTINGS = Output(CONFIG, "every setting, library versions and the command of this run")


class Reported(Protocol):
    """What a page says of a run: `Materials`, or rows alone."""

    cfg: Settings

    @property
    def pool(self) -> Split:
        """Rows to choose from."""

    @property
    def census(self) -> Census:
        """What is odd about them."""

    @property
    def n_queries(self) -> int:
        """Rows that say what matters."""


def write(
    folder: Path, sections: Sequence[Section], outputs: Sequence[Output], *, go_on: bool = False
) -> None:
    """Write ``report.html`` and ``report.md``: the sections, the files, and how to repeat the run.

    Args:
        folder: of the run, with its ``config.yaml`` and all else that was to be written.
        sections: the first of them is the page's head.
        outputs: what the recipe writes.
        go_on: show commands that continue a valuation.
    """
    found = [(output.name, output.content) for output, _ in present((_SETTINGS, *outputs), folder)]
    files = [Section("Files", [Files(found)])]
    more = [next_steps(folder)] if go_on else []
    with stage("writing the report"):
        write_page(folder, [*sections, *more, *files, repeat_section(folder)])


def opening(
    title: str, materials: Reported, blocks: Sequence[Block] = (), *, ranked: bool = True
) -> Section:
    """The page's head: what came out, if anything is measured, and what was done to what.

    Args:
        title: of the page.
        materials: of the run.
        blocks: headline, figures and chart that are to be seen first.
        ranked: whether the run ranks by ``rank.method``.
    """
    cfg = materials.cfg
    queries = f"{materials.n_queries:,} query rows" if materials.n_queries else "no queries"
    name = Path(cfg.model.name).name if Path(cfg.model.name).is_absolute() else cfg.model.name
    pool = f"{len(materials.pool):,} rows"
    if materials.pool.conversations is not None:
        n = len(set(map(str, materials.pool.conversations)))
        pool = f"{len(materials.pool):,} turns of {n:,} conversations"
    what = f"Pool: {pool}. Towards: {queries}. Model: {name}."
    if ranked:
        method = cfg.rank.method if cfg.rank.file is None else Path(cfg.rank.file).name
        what += (
            f" Ranked by {method}: a higher score means that learning from the sample "
            "moves the model in the direction that the queries ask for."
        )
    cut = "" if materials.pool.report is None else f"; {materials.pool.report.words()}"
    odd = f"In the pool: {materials.census.words()}{cut}."
    return Section(title, [*blocks, Text(what, terms=["pool", str(cfg.rank.method)]), Text(odd)])


def compared(comparison: Comparison) -> list[Block]:
    """For the head of a page: does the ranking beat chance, and the losses of all arms."""
    return [
        *headline_of(comparison),
        Chart(
            comparison_figure(comparison),
            "Held-out loss of each arm; further left is better. Bars are 95 % intervals of the "
            "mean, small dots single seeds.",
            "comparison.png",
            terms=["held-out loss", "arm"],
            narrow=comparison_figure(comparison, narrow=True),
        ),
    ]


def ranked(ranking: Ranking, materials: Reported) -> list[Block]:
    """For the head of a page that compares nothing: what was ranked, and towards what."""
    best, worst = ranking.top_k(1)[0], ranking.bottom_k(1)[0]
    scores = dict(zip(ranking.sample_ids.tolist(), ranking.scores.tolist(), strict=True))
    return [
        *(Text(sentence, lead=True) for sentence in doubts(ranking)),
        Numbers(
            [
                Number("samples ranked", f"{ranking.n_scored:,}"),
                Number("queries", f"{materials.n_queries:,}"),
                Number("highest score", f"{scores[best]:.4g}", f"sample {best}"),
                Number("lowest score", f"{scores[worst]:.4g}", f"sample {worst}"),
            ]
        ),
        Text(
            "Whether this order is right is not measured here: recipe=compare retrains on its "
            "ends and on chance."
        ),
    ]


def ranking_section(
    ranking: Ranking,
    pool: Split,
    selected: Iterable[SampleId] = (),
    highlight: Mapping[str, Iterable[SampleId]] | None = None,
) -> Section:
    """Scores along the ranking, and all samples to look through.

    Args:
        ranking: of the pool.
        pool: the samples.
        selected: ids that were chosen.
        highlight: name -> ids to mark in the figure.
    """
    return Section(
        "The samples",
        [
            *map(Text, doubts(ranking)),
            Chart(
                ranking_figure(ranking, tasks(pool), highlight=highlight),
                "Score of each sample, best first, and what kind of sample lies where.",
                "ranking.png",
                terms=["score"],
            ),
            samples_of(ranking, pool.rows, pool.ids, spread_over_queries(ranking), selected),
        ],
    )


def comparison_section(comparison: Comparison) -> Section:
    """Table of the arms and what it says."""
    k, steps, seeds = (comparison[name] for name in ("k", "steps", "seeds"))
    return Section(
        "Does the ranking hold what it promises?",
        [
            *(Text(line, terms=["held-out loss"]) for line in verdict(comparison)),
            arms_table(comparison),
            Text(
                f"Each run trains a fresh LoRA for {steps} steps: on the {k} best samples (top_k), "
                f"{k} drawn at random (random_k, drawn anew for each seed), the {k} worst "
                "(bottom_k) or all of them (full); base is the model before training. The loss is "
                "the mean over all response tokens of the held-out rows, in nats. Intervals are "
                f"95 % Student t intervals over {seeds} seeds.",
                terms=["nats"],
            ),
        ],
    )


def verdict(comparison: Comparison) -> list[str]:
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
        lines.append(
            f"With the same number of steps, training on all samples gives {means['full']:.3f}."
        )
    return lines + cautions(comparison, "top_k")


def next_steps(folder: Path) -> Section:
    """Commands that continue this run."""
    at, other = shlex.quote(str(folder)), other_method(folder)
    return Section(
        "Go on from here",
        [
            Text("Choose another number of samples:"),
            Code(f"influcoder recipe=select from={at} select.k=50"),
            Text("Rank by another method and compare again:"),
            Code(f"influcoder recipe=compare from={at} rank.method={other} select.k=50"),
            Text("Rank the same samples towards other queries, without training again:"),
            Code(f"influcoder recipe=score from={at} queries=new.jsonl"),
        ],
    )


def other_method(folder: Path) -> str:
    """A method that a run could be ranked by as well, without further cost."""
    cfg = load_config(folder)
    methods = ("self", "loss") if cfg.data.query is None else ("tracin", "fisher")
    return next(method for method in methods if method != cfg.rank.method)


def try_another_method(folder: Path) -> str:
    """The command that holds another ranking of a run against retraining."""
    other = other_method(folder) if (folder / CONFIG).is_file() else "tracin"
    at = shlex.quote(shown_path(folder))
    return f"influcoder recipe=compare from={at} rank.method={other}"


def choose_some(folder: Path) -> str:
    """The command that chooses a tenth of what a run has ranked."""
    k = 100
    if (folder / RANKING).is_file():
        k = max(1, n_lines(folder / RANKING) // 10)
    return f"influcoder recipe=select from={shlex.quote(shown_path(folder))} select.k={k}"


def train_on_it(folder: Path) -> str:
    """The command that trains on what a run has chosen."""
    return f"influcoder recipe=retrain from={shlex.quote(shown_path(folder))}"


OWN_DATA = (
    "influcoder recipe=pipeline model.name=<model> data.pool=pool.jsonl data.query=query.jsonl "
    "data.eval=eval.jsonl select.k=500"
)


def repeat_section(folder: Path) -> Section:
    """The command, the settings (paths cut to names) and the versions of the run in ``folder``."""
    content = read_config(folder / CONFIG)
    versions = content.pop("versions")
    command = str(content.pop("command"))
    content.pop("complete")
    settings = yaml.safe_dump(_named(content, folder), sort_keys=False, allow_unicode=True)
    return Section(
        "Repeat this run",
        [
            Text("Command:"),
            Code(command),
            Folded(
                "All settings",
                [
                    Text(f"As in {CONFIG}, with files by their names alone."),
                    Code(settings, "yaml"),
                ],
            ),
            Folded("Versions", [Table(["library", "version"], list(versions.items()))]),
        ],
    )


def _named(content: Any, folder: Path) -> Any:
    """Paths of this machine say nothing elsewhere: only what lies in the run folder keeps one."""
    if isinstance(content, dict):
        return {key: _named(value, folder) for key, value in content.items()}
    if isinstance(content, list):
        return [_named(value, folder) for value in content]
    if isinstance(content, str) and Path(content).is_absolute():
        path = Path(content)
        inside = path.is_relative_to(folder.absolute())
        return (path.relative_to(folder.absolute()) if inside else Path(path.name)).as_posix()
    return content


def tasks(pool: Split) -> dict[Any, str] | None:
    """Id -> task for the figure; None where no row has one."""
    if all(row.get("task") is None for row in pool.rows):
        return None
    return {
        name: row.get("task") or "no task" for name, row in zip(pool.ids, pool.rows, strict=True)
    }
