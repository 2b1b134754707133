"""pipeline: valuate, select, retrain and compare in one run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes import valuate
from influcoder_lightning.recipes.chosen_rows import chosen_by, chosen_from
from influcoder_lightning.recipes.compare import check, compare
from influcoder_lightning.recipes.forecast import FORECAST
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.valuation import valuation_sections
from influcoder_lightning.recipes.select import choose
from influcoder_lightning.report.findings.comparison import Comparison
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import ADAPTER, CHOSEN, COMPARISON, CONVERSED, RANKED, VALUED
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings

OUTPUTS = (*COMPARISON, RANKED, CONVERSED, *CHOSEN, ADAPTER, VALUED, FORECAST)


def run(cfg: Settings, folder: Path) -> float:
    """Write everything that the steps write; returns the mean held-out loss of top_k."""
    materials = Materials(cfg, "pipeline")
    found = steps(materials, folder)
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    page.write(
        folder,
        [
            page.opening("Which samples helped", materials, page.compared(found.comparison)),
            page.comparison_section(found.comparison),
            page.ranking_section(
                chosen_by(materials, found.ranking), chosen_from(materials), found.chosen
            ),
            *valuation_sections(materials, found.store, found.ranking, folder),
        ],
        OUTPUTS,
        go_on=True,
    )
    return float(found.comparison["arms"]["top_k"]["mean"])


@dataclass(frozen=True)
class Found:
    """What the steps gave: the store, its ranking, the ids chosen by it, and how the arms did."""

    store: InfluenceStore
    ranking: Ranking
    chosen: list[Any]
    comparison: Comparison


def steps(materials: Materials, folder: Path) -> Found:
    """Value, rank, choose and compare."""
    valuate.check(materials.cfg, folder)
    check(materials)
    store = valuate.value(materials, folder)
    ranking = valuate.rank(store, materials, folder)
    chosen = choose(materials, ranking, folder, folder)
    comparison = compare(materials, ranking, folder, adapter=folder / "adapter")
    return Found(store, ranking, chosen, comparison)


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=page.try_another_method,
    takes_over=("rank", "select"),
    trains=True,
    after_interruption=valuate.go_on_from_checkpoint,
    reuse=valuate.REUSE,
)
