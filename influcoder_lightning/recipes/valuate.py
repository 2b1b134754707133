"""valuate: fine-tune once with the callback (or extract features without training), then rank."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from influcoder_lightning.data.written_rows import forget_rows
from influcoder_lightning.errors import ConfigError, StoreError
from influcoder_lightning.finetune.models import refuse_no_adapter
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import get_method
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes.forecast import FORECAST, forecast
from influcoder_lightning.recipes.method_checks import check_for_valuation
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.valuation import valuation_sections
from influcoder_lightning.recipes.valuing import value_frozen, value_in_training
from influcoder_lightning.report.logged_results import log_ranking
from influcoder_lightning.run.loggers import run_loggers
from influcoder_lightning.run.materials import Materials, fit_to_pool
from influcoder_lightning.run.outputs import CONVERSED, RANKED, VALUED
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.run_folder import CONVERSATIONS, RANKING, STORE, require
from influcoder_lightning.run.saved_config import begin_config, save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage
from influcoder_lightning.run.together import shared
from influcoder_lightning.store.folder import refuse_existing
from influcoder_lightning.valuation.resume import (
    is_complete,
)

log = logging.getLogger(__name__)


OUTPUTS = (RANKED, CONVERSED, VALUED, FORECAST)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``influence/``, ``ranking.csv``, ``report.html`` and ``report.md``."""
    materials = Materials(cfg, "valuate")
    store = value(materials, folder)
    ranking = rank(store, materials, folder)
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    page.write(
        folder,
        [
            page.opening("Valued samples", materials, page.ranked(ranking, materials)),
            page.ranking_section(ranking, materials.pool),
            *valuation_sections(materials, store, ranking, folder),
        ],
        OUTPUTS,
        go_on=True,
    )


def check(cfg: Settings, folder: Path) -> None:
    """Refuse what cannot work before an hour has gone into it.

    Raises:
        ConfigError: unknown mode, or nothing to go on from.
        RankingError: unknown method.
        StoreError: the run folder already has a store.
    """
    if cfg.mode not in ("training", "frozen"):
        raise ConfigError(f"mode={cfg.mode} is neither training nor frozen.")
    get_method(cfg.rank.method)
    if cfg.model.adapter is not None:
        refuse_no_adapter(cfg.model.adapter)
    anew = cfg.mode == "frozen" or cfg.train.checkpoint_every_n_steps is None
    if cfg.resume and anew and not is_complete(shared(folder) / STORE):
        raise ConfigError(
            "resume=true goes on behind a valuation that is complete, or within a training that "
            "saved checkpoints: set train.checkpoint_every_n_steps. A frozen model is valued again "
            "instead."
        )
    try:
        refuse_existing(folder / STORE, cfg.influence.overwrite or cfg.resume)
    except StoreError as error:
        raise StoreError(
            f"{folder} already holds a valuation. Choose another folder with hydra.run.dir=..., or "
            "replace it with influence.overwrite=true; one that was interrupted goes on with "
            "resume=true."
        ) from error


def value(materials: Materials, folder: Path) -> InfluenceStore:
    """The store of a valuation run on the pool; see `check` for what is refused."""
    cfg = materials.cfg
    check(cfg, folder)
    n_queries = materials.n_queries  # what is wrong with the rows shows first
    require(cfg, "model.name", materials.recipe)
    check_for_valuation(cfg, n_queries)
    _describe(materials, folder)
    where = shared(folder) / STORE
    with forecast(materials, folder):
        store = (value_in_training if cfg.mode == "training" else value_frozen)(materials, where)
    for reason, count in store.attributes["counts"]["kept_out"].items():
        log.warning("%d rows were kept out: %s", count, reason)
    return store


def _describe(materials: Materials, folder: Path) -> None:
    """Write what a later step must know, before anything can fail that costs a training."""
    cfg, pool = materials.cfg, materials.pool.fingerprint()
    if cfg.resume:
        begin_config(cfg, folder, pool=pool)
        return
    (folder / RANKING).unlink(missing_ok=True)  # of a valuation that this one replaces
    forget_rows(folder)
    save_config(cfg, folder, complete=False, pool=pool)


def rank(store: InfluenceStore, materials: Materials, folder: Path) -> Ranking:
    """Rank the pool by ``rank.method``; writes ``ranking.csv``."""
    method = materials.cfg.rank.method
    with stage("ranking") as done:
        ranking = store.rank(method, data=materials.pool.identified())
        fit_to_pool(ranking, materials.pool, "the ranking")
        ranking.save(folder / RANKING)
        if materials.pool.conversations is not None:
            materials.pool.of_conversations(ranking).save(folder / CONVERSATIONS)
        done.result = f"{len(ranking):,} samples by {method}"
    if loggers := run_loggers(materials.cfg, folder):
        pool, k = materials.pool, materials.cfg.select.k
        step, groups = materials.valuation_steps(), page.tasks(pool)
        log_ranking(loggers, ranking, pool.rows, pool.ids, k=k, groups=groups, step=step)
    return ranking


def go_on_from_checkpoint(cfg: DictConfig, again: str, folder: Path) -> str:
    """After an interruption: behind what is complete, or from the last checkpoint."""
    if is_complete(folder / STORE):
        return f"Go on behind the valuation, which is complete: {again} resume=true"
    if cfg.mode != "training":
        return f"Start anew: {again}"
    if cfg.train.checkpoint_every_n_steps is not None:
        return f"Go on from the last checkpoint: {again} resume=true"
    return (
        f"Start anew: {again} influence.overwrite=true (with train.checkpoint_every_n_steps=... a "
        "run can go on where it was interrupted)"
    )


REUSE = "To value anew in its place: influence.overwrite=true."
RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=page.choose_some,
    takes_over=("rank",),
    trains=True,
    after_interruption=go_on_from_checkpoint,
    reuse=REUSE,
)
