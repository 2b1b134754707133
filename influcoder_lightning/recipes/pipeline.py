"""pipeline: valuate, select, retrain and compare in one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from influcoder_lightning import Ranking
from influcoder_lightning.recipes import page, valuate
from influcoder_lightning.recipes.compare import check, compare
from influcoder_lightning.recipes.materials import Materials
from influcoder_lightning.recipes.run_folder import save_config
from influcoder_lightning.recipes.select import choose
from influcoder_lightning.report import write_report


def run(cfg: DictConfig, folder: Path) -> float:
    """Write everything that the steps write; returns the mean held-out loss of top_k."""
    materials = Materials(cfg, "pipeline")
    ranking, comparison = steps(materials, folder)
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    write_report(
        folder / "report.md",
        [
            page.opening("Which samples helped", materials, folder),
            page.comparison_section(comparison),
            page.ranking_section(ranking, materials.pool),
            page.files_section(folder),
            page.next_steps(folder),
        ],
    )
    return float(comparison["arms"]["top_k"]["mean"])


def steps(materials: Materials, folder: Path) -> tuple[Ranking, dict[str, Any]]:
    """The ranking of the pool, and the comparison of its arms."""
    valuate.check(materials.cfg, folder)
    check(materials)
    store = valuate.value(materials, folder)
    ranking = valuate.rank(store, materials, folder)
    choose(materials, ranking, folder, folder)
    comparison = compare(materials, ranking, folder, adapter=folder / "adapter")
    return ranking, comparison
