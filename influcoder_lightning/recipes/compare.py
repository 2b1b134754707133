"""compare: does the ranking hold what it promises? Retrain on its ends, on chance, on all."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.ids import as_id_array
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.recipes.arms import Arms, run_arms
from influcoder_lightning.recipes.chosen_rows import check_unit, chosen_by, chosen_from
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.retrain import adopt_steps, retrain_steps
from influcoder_lightning.recipes.select import adopt_pool, ranking_of
from influcoder_lightning.report.findings.comparison import (
    Comparison,
    summarise_arms,
    write_comparison,
)
from influcoder_lightning.report.logged_results import log_comparison
from influcoder_lightning.run.loggers import run_loggers
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import CHOSEN, COMPARISON, RANKED
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.run_folder import require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.split import Split
from influcoder_lightning.selection.selection import select

log = logging.getLogger(__name__)


OUTPUTS = (*COMPARISON, RANKED, *CHOSEN)


def run(cfg: Settings, folder: Path) -> float:
    """Write ``comparison.*`` and a report; returns the mean held-out loss of top_k."""
    materials = Materials(cfg, "compare")
    ranking = ranking_of(materials, folder)
    comparison = compare(materials, ranking, folder)
    ranking = chosen_by(materials, ranking)
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    page.write(
        folder,
        [
            page.opening(
                "Retraining on what the ranking chose", materials, page.compared(comparison)
            ),
            page.comparison_section(comparison),
            page.ranking_section(ranking, chosen_from(materials), ranking.top_k(int(cfg.select.k))),
        ],
        OUTPUTS,
    )
    return float(comparison["arms"]["top_k"]["mean"])


def compare(
    materials: Materials, ranking: Ranking, folder: Path, adapter: Path | None = None
) -> Comparison:
    """Retrain the arms of a ranking; writes ``comparison.json``, ``.csv`` and ``.png``.

    Args:
        materials: pool, evaluation rows and settings.
        ranking: of the pool.
        folder: to write to.
        adapter: keep the first top_k adapter here.
    """
    check(materials)
    k, seeds = int(materials.cfg.select.k), [int(seed) for seed in materials.cfg.seeds]
    steps = retrain_steps(materials)
    arms = arms_of(chosen_by(materials, ranking), chosen_from(materials), k, seeds)
    losses = run_arms(
        arms, materials, seeds=seeds, steps=steps, adapters={"top_k": adapter}, folder=folder
    )
    comparison = summarise_arms(losses, k, steps, len(seeds))
    write_comparison(folder, comparison)
    if loggers := run_loggers(materials.cfg, folder):
        log_comparison(loggers, comparison, step=materials.valuation_steps())
    for line in page.verdict(comparison):
        log.info(line)
    return comparison


def check(materials: Materials) -> None:
    """Refuse, before anything is trained, what cannot be compared.

    Raises:
        ConfigError: select.k, data.eval or seeds are not given, or seeds repeat.
        RankingError: k is larger than the pool.
    """
    cfg = materials.cfg
    check_unit(cfg)
    k = int(require(cfg, "select.k", materials.recipe))
    materials.require_evaluation()
    seeds = list(cfg.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={seeds}: give at least one, each once; three or more for bars.")
    n = len(set(map(str, chosen_from(materials).ids)))
    if not 1 <= k <= n:
        raise RankingError(f"select.k={k} does not fit a pool of {n} samples; choose 1 to {n}.")
    if 2 * k > n:
        log.warning("select.k=%d is more than half of %d samples: top and bottom overlap", k, n)
    if len(seeds) < 3:
        log.warning("only %d seeds: intervals need three or more to say anything", len(seeds))


def arms_of(ranking: Ranking, pool: Split, k: int, seeds: Sequence[int]) -> Arms:
    """Arm -> ids for each seed; the random arm draws from the whole pool, anew for each seed."""
    everyone = list(dict.fromkeys(pool.ids))
    chance = Ranking(as_id_array(everyone), np.zeros(len(everyone)), method="random")
    n = len(seeds)
    return {
        "top_k": [ranking.top_k(k)] * n,
        "random_k": [select(chance, "random", k, seed=seed) for seed in seeds],
        "bottom_k": [ranking.bottom_k(k)] * n,
        "full": [everyone] * n,
    }


def _adopt(cfg: Settings, source: Path, given: Collection[str]) -> None:
    adopt_pool(cfg, source, given)
    adopt_steps(cfg, given)


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=page.try_another_method,
    takes_over=("rank", "select"),
    goes_on=True,
    trains=True,
    adopt=_adopt,
)
