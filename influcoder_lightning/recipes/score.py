"""score: new queries, or new samples, against a finished run; nothing is trained."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.finetune.models import device
from influcoder_lightning.influence.part_of_store import StoreWithoutRows
from influcoder_lightning.influence.registry import get_method, rank
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes import score_pair, score_text
from influcoder_lightning.recipes.method_checks import check_for_new_rows
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.score_text import OUTPUTS
from influcoder_lightning.run.base_model import lora_model
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.materials import Materials, fit_to_pool
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.run_folder import RANKING, STORE, locate, run_of, source_folder
from influcoder_lightning.run.saved_config import load_config, save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.scoring.survey import Survey
from influcoder_lightning.store import schema

log = logging.getLogger(__name__)
_EARLIER = {"gradients", "queries"}  # a run's method that goes on to new queries


def run(cfg: Settings, folder: Path) -> None:
    """Write ``ranking.csv`` and a page.

    With new queries also a store that has them; from text, ``scores/`` and ``confidence.csv``, and
    with ``select.k`` also ``selected.jsonl``.
    """
    if cfg.rank.method == "pair":
        score_pair.run(cfg, folder, OUTPUTS)
        return
    source = source_folder(cfg, "score")
    where = locate(source, STORE)
    valued = load_config(run_of(where))
    cfg = cfg.copy()
    if cfg.queries is not None:  # what the ranking is towards; a later step checks it against eval
        cfg.data.query = cfg.queries
    materials = Materials(cfg, "score")
    method = cfg.rank.method
    pool = score_text.survey(cfg) if method in (None, "encoder") else None
    known = method != "encoder" and _is_valued(materials, pool, valued)
    if cfg.queries is None and known and method is None:
        raise ConfigError(
            "recipe=score needs something new: queries=<file> for other queries, "
            "data.pool=<file> for samples that were not trained on, or rank.method=<name>."
        )
    cfg.rank.method = method or (_earlier(valued) if known else "encoder")
    if not known:
        check_for_new_rows(cfg, valued.data.pool)
    scores = None
    if cfg.rank.method == "encoder":
        assert pool is not None
        scores = score_text.TextScores(cfg, folder, pool)
    ids = None
    if cfg.queries is None:
        store = InfluenceStore(where)
    else:
        store, ids = _with_queries(materials, where, folder / STORE)
    if scores is not None:
        scores.write(store, ids)
    else:
        _write(materials, folder, store, ids, known)


def _is_valued(materials: Materials, pool: Survey | None, valued: Settings) -> bool:
    """Whether the pool is the one of the run: then there are gradients of its samples."""
    fingerprint = valued.facts.get("pool")
    if pool is not None and pool.fingerprint == fingerprint:
        return True
    if pool is not None and materials.cfg.data.pool != valued.data.pool:
        return False
    # A run leaves out rows without a response token, and the survey knows of no tokens.
    return bool(materials.pool.fingerprint() == fingerprint)


def _write(
    materials: Materials, folder: Path, store: InfluenceStore, ids: list[Any] | None, known: bool
) -> None:
    cfg, pool = materials.cfg, materials.pool
    name, rows = cfg.rank.method, pool.identified()
    if known:
        ranking = fit_to_pool(store.rank(name, queries=ids, data=rows), pool, str(store.folder))
    else:
        ranking = rank(StoreWithoutRows(store, name), name, queries=ids, data=rows)
    ranking.save(folder / RANKING)
    save_config(cfg, folder, pool=pool.fingerprint())
    title = "Samples of an earlier run, valued anew" if known else "New samples, scored"
    page.write(
        folder,
        [
            page.opening(title, materials, page.ranked(ranking, materials)),
            page.ranking_section(ranking, pool),
        ],
        OUTPUTS,
    )
    n = f"{len(ranking):,}"
    log.info("ranked %s samples by %s: %s", n, cfg.rank.method, folder / RANKING)


def _with_queries(
    materials: Materials, where: Path, target: Path
) -> tuple[InfluenceStore, list[Any]]:
    """The run's store beside this run, with the new queries added; and their ids."""
    cfg = materials.cfg
    InfluenceStore(where)  # what is none is refused before anything of it is copied
    _borrow(where, target)
    store = InfluenceStore(target)
    taken = store.query_ids
    first_id, prefix = 0, ""
    if len(taken) and np.issubdtype(taken.dtype, np.integer):
        first_id = int(taken.max()) + 1
    elif len(taken):
        prefix = f"new-{len(taken)}-"
    queries = materials.split("new queries", cfg.queries, first_id, prefix)
    n, windows = f"{len(queries):,}", f"{len(store.windows):,}"
    log.info("valuing %s new queries in %s windows", n, windows)
    model = lora_model(cfg).to(device())
    ids = store.add_queries(model, materials.loader(queries.dataset), tokenizer=materials.tokenizer)
    return store, ids


def _borrow(where: Path, target: Path) -> None:
    """A copy of the store's file, and links to what is only read; the run itself stays as it is."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(where / schema.FILE_NAME, target / schema.FILE_NAME)
    for name in ("encoder", "adapters"):
        original, link = (where / name).resolve(), target / name
        if not original.is_dir() or link.exists():
            continue
        try:
            os.symlink(original, link, target_is_directory=True)
        except OSError:  # file systems without links
            shutil.copytree(original, link)


def _earlier(valued: Settings) -> str:
    """The run's own method, where it asks for queries; else the recipes' default."""
    method = str(valued.rank.method)
    try:
        needs = get_method(method).needs
    except RankingError:  # of a package that is not installed any more
        needs = None
    return method if needs is not None and needs >= _EARLIER else str(defaults().rank.method)


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=score_text.go_on,
    after_interruption=lambda cfg, again, folder: f"Go on where it stopped: {again} resume=true",
    reuse="To choose others by the scores in it: resume=true.",
)
