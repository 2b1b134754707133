"""Sections of a report on one valuation: how scores are spread, what to beware of, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning import InfluenceStore, Ranking
from influcoder_lightning.diversity import SampleCodes
from influcoder_lightning.errors import StoreError
from influcoder_lightning.influence.ids import id_keys
from influcoder_lightning.influence.several import CONTROL, SIMPLE, Several, rank_by_several
from influcoder_lightning.recipes import page, stages
from influcoder_lightning.recipes.materials import Materials, Split
from influcoder_lightning.report import Chart, Folded, Number, Numbers, Section, Table, Text
from influcoder_lightning.report.ambiguous import Spread, spread_over_methods, spread_over_queries
from influcoder_lightning.report.blocks import Block
from influcoder_lightning.report.cost import find_cost, peak_memory, plot_stages
from influcoder_lightning.report.distribution import (
    QUANTILES,
    describe_scores,
    plot_distribution,
)
from influcoder_lightning.report.drift import SHOWN, find_drift, plot_drift
from influcoder_lightning.report.duplicates import MOST, find_near_copies
from influcoder_lightning.report.heatmap import find_agreement, plot_agreement_map, say_agreement
from influcoder_lightning.report.units import duration, in_bytes

_GROUPS, _MEMBERS = 8, 4  # of near-copies that are shown
_AMBIGUOUS = 8


def valuation_sections(
    materials: Materials, store: InfluenceStore, ranking: Ranking, folder: Path
) -> list[Section]:
    """What a valuation says beside the ranking itself, the most useful first.

    Args:
        materials: of the run.
        store: that was ranked.
        ranking: of the pool.
        folder: of the run; charts go into its `charts/`.
    """
    pool = materials.pool
    if not np.isfinite(ranking.scores).any():
        nothing = Section("How the scores are spread", [Text("No sample has a finite score.")])
        return [nothing, *_drift(store), _cost(store)]
    k = _size(materials, ranking)
    rows = _rows_by_id(pool)
    with stages.stage("comparing with other methods") as done:
        several = rank_by_several(store, ranking, pool.identified())
        done.result = f"{len(several.rankings)} rankings of {several.n_used:,} samples"
    spread = _spread(ranking, several)
    return [
        _distribution(ranking, pool, k),
        _near_copies(store, ranking, rows, k),
        *([] if spread is None else [_ambiguous(ranking, spread, rows)]),
        _agreement(ranking, several),
        *_drift(store),
        _cost(store),
    ]


def _size(materials: Materials, ranking: Ranking) -> int:
    """k of the run; a tenth of the pool where nothing is selected."""
    k = materials.cfg.select.k
    return min(int(k) if k is not None else max(10, len(ranking) // 10), max(1, ranking.n_scored))


def _rows_by_id(pool: Split) -> dict[str, Mapping[str, Any]]:
    return {str(name): row for name, row in zip(pool.ids, pool.rows, strict=True)}


def _spread(ranking: Ranking, several: Several) -> Spread | None:
    over_queries = spread_over_queries(ranking)
    if over_queries is not None:
        return over_queries
    others = {name: other for name, other in several.rankings.items() if name != CONTROL}
    return spread_over_methods(ranking, others)


def _distribution(ranking: Ranking, pool: Split, k: int) -> Section:
    found = describe_scores(ranking, k)
    assert found is not None  # some score is finite
    assert found.threshold is not None
    figure, beyond = plot_distribution(ranking, found, page.tasks(pool))
    outside = f"; {beyond:,} samples beyond the axis are counted at its ends" if beyond else ""
    without = f" {found.without:,} samples have no score." if found.without else ""
    low, high = found.quantiles[QUANTILES.index(0.25)], found.quantiles[QUANTILES.index(0.75)]
    return Section(
        "How the scores are spread",
        [
            Text(
                f"The top {found.k:,} start at a score of {found.threshold:.3g}; half of all "
                f"samples lie between {low:.3g} and {high:.3g}, and {found.positive:.0%} are above "
                f"0.{without} A tail that stands apart on the right is worth more than its size; "
                "where the line cuts through the middle of a hump, the samples just below it are "
                "as good as those just above.",
                terms=["score"],
            ),
            Chart(
                figure,
                f"Scores of {found.n:,} samples by {ranking.method}; the dashed line is where the "
                f"top {found.k:,} begin, the marks at the foot are quartiles{outside}.",
                "charts/distribution.png",
            ),
            Folded(
                "Quantiles",
                [
                    Table(
                        ["share of samples below", "score"],
                        [
                            [f"{share:.0%}", value]
                            for share, value in zip(QUANTILES, found.quantiles, strict=True)
                        ],
                    )
                ],
            ),
        ],
    )


def _near_copies(
    store: InfluenceStore, ranking: Ranking, rows: Mapping[str, Mapping[str, Any]], k: int
) -> Section:
    size = min(k, MOST)
    title = "Near-copies among the best"
    ids = ranking.sample_ids[ranking.order[:size]]
    try:
        found = find_near_copies(SampleCodes(store)(ids))
    except StoreError as error:
        return Section(title, [Text(f"The samples cannot be compared: {error}")])
    limited = f" (the first {size:,} of them were compared)" if size < k else ""
    repeats = _repeats([rows.get(str(name), {}) for name in ids.tolist()])
    if not found.groups:
        return Section(
            title,
            [
                Text(
                    f"None: no two of the top {k:,}{limited} have codes with a cosine above "
                    f"{found.similarity:g}.{repeats}",
                    terms=["near-copies"],
                )
            ],
        )
    shown = found.groups[:_GROUPS]
    lines = []
    for number, group in enumerate(shown, start=1):
        for place in group[:_MEMBERS].tolist():
            name = str(ids[place])
            row = rows.get(name, {})
            score = float(ranking.scores[ranking.order[place]])
            size_of = f"{number} ({len(group):,} samples)"
            line = [size_of, place + 1, score, name]
            lines.append([*line, row.get("prompt"), row.get("response")])
    more = len(found.groups) - len(shown)
    rest = f" The {len(shown)} largest of {len(found.groups):,} groups are shown." if more else ""
    return Section(
        title,
        [
            Text(
                f"{found.in_groups:,} of the top {k:,}{limited} have a near-copy among them: a "
                "model learns nearly the same from both. With one of each group left, "
                f"{found.distinct:,} distinct samples remain. To fill their places with new "
                f"lessons, choose with select.strategy=diverse.{repeats}",
                terms=["near-copies"],
            ),
            Table(["copies", "rank", "score", "sample", "prompt", "response"], lines, limit=120),
            Text(
                f"Near-copies: cosine of the samples' codes above {found.similarity:g}; samples "
                f"that are linked by a chain of them are one group.{rest} Of each group the best "
                f"{_MEMBERS} are listed, at most.",
                terms=["near-copies"],
            ),
        ],
    )


def _repeats(rows: list[Mapping[str, Any]]) -> str:
    """How many repeat another's text, which their codes need not show."""
    texts = [(row["prompt"], row["response"]) for row in rows if "prompt" in row]
    if not (again := len(texts) - len(set(texts))):
        return ""
    return (
        f" {again:,} of them repeat the text of a better one, word for word; such copies can have "
        "unlike codes where the model moved far between the steps that saw them."
    )


def _ambiguous(ranking: Ranking, spread: Spread, rows: Mapping[str, Mapping[str, Any]]) -> Section:
    keys = id_keys(ranking.sample_ids)
    with_task = any(row.get("task") is not None for row in rows.values())
    columns = ["spread", "best place", "worst place", "rank", "sample"]
    columns += [*(["task"] if with_task else []), "prompt", "response"]
    lines = []
    for place in spread.most(_AMBIGUOUS).tolist():
        row = rows.get(keys[place], {})
        numbers = [float(values[place]) for values in (spread.values, spread.best, spread.worst)]
        task = [row.get("task")] if with_task else []
        line = [round(numbers[0], 3), *(f"{n:.1f} %" for n in numbers[1:])]
        line += [int(ranking.ranks[place]), keys[place], *task]
        lines.append([*line, row.get("prompt"), row.get("response")])
    middle = float(np.nanmedian(spread.values))
    queries = spread.over == "queries"
    return Section(
        "Where the queries disagree" if queries else "Where the methods disagree",
        [
            Text(
                f"Some {spread.over} put these samples near the top, others near the bottom, so "
                "that their rank is a compromise. "
                + (
                    "If the queries are of several kinds, rank towards each kind on its own "
                    "(recipe=score queries=...); if they are of one kind, such a sample serves "
                    "some of them and not the others: read it before you rely on its rank."
                    if queries
                    else "Do not trust their place before you have read them."
                )
            ),
            Table(columns, lines, limit=120),
            Text(f"{spread.definition()} Of all samples here the median is {middle:.2f}."),
        ],
    )


def _agreement(ranking: Ranking, several: Several) -> Section:
    title = "Do other methods say the same?"
    found = find_agreement(several.rankings)
    some = ""
    if several.n_used < several.n_samples:
        some = f" of a seeded {several.n_used:,} of {several.n_samples:,}"
    text = several.rankings.get("encoder")
    if text is not None and len(text) < several.n_used:
        some += f" (encoder: {len(text):,} of these)"
    blocks: list[Block] = [
        Text(say_agreement(found, ranking.method, list(SIMPLE)), terms=["spearman"]),
        Chart(
            plot_agreement_map(found, ranking.method),
            f"Spearman correlation of the rankings{some}: 1 is the same order, 0 none, -1 the "
            "reverse. Blue agrees, orange contradicts.",
            "charts/agreement.png",
            terms=["spearman"],
        ),
    ]
    if several.left_out:
        reasons = [[name, reason] for name, reason in several.left_out.items()]
        blocks.append(Folded("Methods left out", [Table(["method", "why"], reasons, limit=400)]))
    return Section(title, blocks)


def _drift(store: InfluenceStore) -> list[Section]:
    found = find_drift(store.windows)
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


def _cost(store: InfluenceStore) -> Section:
    cost = find_cost(store.attributes, store.n_rows, store.path)
    memory = peak_memory()
    config = store.attributes.get("config")
    frozen = isinstance(config, Mapping) and config.get("mode") == "frozen"
    several = cost.processes is not None and cost.processes > 1
    summed = f"summed over {cost.processes} processes" if several else ""
    blocks: list[Block] = [
        Numbers(
            [
                Number(
                    "step time share",
                    "-" if cost.share is None else f"{cost.share:.1%}",
                    "a frozen model: all of it" if frozen else "of the training's time",
                ),
                Number(
                    "extraction" if frozen else "training with valuation",
                    "-" if cost.seconds is None else duration(cost.seconds),
                    summed,
                ),
                Number(
                    "rows per second",
                    "-" if cost.rows_per_second is None else f"{cost.rows_per_second:,.1f}",
                ),
                Number("end of the run", "-" if cost.closing is None else duration(cost.closing)),
                Number(
                    "store on disk",
                    in_bytes(cost.folder_bytes),
                    f"of which towers {in_bytes(cost.encoder_bytes)}",
                ),
                Number(
                    "bytes per row",
                    "-" if cost.bytes_per_row is None else f"{cost.bytes_per_row:,.0f}",
                    f"{cost.rows:,} rows",
                ),
                Number("peak memory", "-" if memory is None else in_bytes(memory)),
            ]
        )
    ]
    if seconds := stages.seconds():
        blocks.append(
            Chart(
                plot_stages(seconds),
                f"Seconds of each stage of this command, {duration(sum(seconds.values()))} in all.",
                "charts/stages.png",
            )
        )
    return Section("What it cost", blocks)
