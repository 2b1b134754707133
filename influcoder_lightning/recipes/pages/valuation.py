"""What a report says of one valuation: how scores are spread, what to beware of, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning.influence.rank_several import rank_by_several
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.report.findings.ambiguous import ambiguous_section, find_spread
from influcoder_lightning.report.findings.cost import cost_section
from influcoder_lightning.report.findings.distribution import distribution_section
from influcoder_lightning.report.findings.drift import drift_sections
from influcoder_lightning.report.findings.length_bias import length_sections
from influcoder_lightning.report.findings.method_agreement import agreement_section
from influcoder_lightning.report.findings.near_copies import near_copies_section
from influcoder_lightning.report.press.blocks import Section, Text
from influcoder_lightning.run import stages
from influcoder_lightning.run.split import Split
from influcoder_lightning.selection.diversity import SampleCodes


def valuation_sections(
    materials: page.Reported, store: InfluenceStore, ranking: Ranking, folder: Path
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
        return [nothing, *drift_sections(store.windows), _cost(store)]
    k = _size(materials, ranking)
    rows = _rows_by_id(pool)
    with stages.stage("comparing with other methods") as done:
        several = rank_by_several(store, ranking, pool.identified())
        done.result = f"{len(several.rankings)} rankings of {several.n_used:,} samples"
    spread = find_spread(ranking, several)
    return [
        distribution_section(ranking, k, page.tasks(pool)),
        near_copies_section(SampleCodes(store), ranking, rows, k),
        *([] if spread is None else [ambiguous_section(ranking, spread, rows)]),
        agreement_section(ranking, several),
        *length_sections(ranking, store, k),
        *drift_sections(store.windows),
        _cost(store),
    ]


def _size(materials: page.Reported, ranking: Ranking) -> int:
    """k of the run; a tenth of the pool where nothing is selected."""
    k = materials.cfg.select.k
    return min(int(k) if k is not None else max(10, len(ranking) // 10), max(1, ranking.n_scored))


def _rows_by_id(pool: Split) -> dict[str, Mapping[str, Any]]:
    return {str(name): row for name, row in zip(pool.ids, pool.rows, strict=True)}


def _cost(store: InfluenceStore) -> Section:
    return cost_section(store.attributes, store.n_rows, store.path, stages.seconds())
