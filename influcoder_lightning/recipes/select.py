"""select: choose samples of a valued pool."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.ids import SampleId, as_id_array
from influcoder_lightning.influence.doubts import cut_through
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.score_files import load_scores
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes import valuate
from influcoder_lightning.recipes.chosen_rows import (
    check_unit,
    chosen_by,
    chosen_from,
    strategy_options,
    write_chosen,
)
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.report.press.blocks import Number, Numbers
from influcoder_lightning.run.materials import Materials, fit_to_pool
from influcoder_lightning.run.outputs import CHOSEN, RANKED
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.run_folder import (
    RANKING,
    STORE,
    locate,
    ranked_by,
    run_of,
    source_folder,
)
from influcoder_lightning.run.saved_config import load_config, save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.split import Split
from influcoder_lightning.selection.diversity import SampleCodes
from influcoder_lightning.selection.selection import select as choose_ids

log = logging.getLogger(__name__)


OUTPUTS = (RANKED, *CHOSEN)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``selected.jsonl`` (and ``ranking.csv``, where it is ranked anew) and a report."""
    check_unit(cfg)
    materials = Materials(cfg, "select")
    ranking = ranking_of(materials, folder)
    source = folder if cfg["from"] is None else source_folder(cfg, "select")
    ids = choose(materials, ranking, folder, source)
    ranking, pool = chosen_by(materials, ranking), chosen_from(materials)
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    page.write(
        folder,
        [
            page.opening(
                "Chosen samples", materials, [_chosen(ids, ranking, str(cfg.select.strategy))]
            ),
            page.ranking_section(ranking, pool, ids),
        ],
        OUTPUTS,
    )


def _chosen(ids: Sequence[SampleId], ranking: Ranking, strategy: str) -> Numbers:
    scores = dict(zip(ranking.sample_ids.tolist(), ranking.scores.tolist(), strict=True))
    items = [
        Number("chosen", f"{len(ids):,}", f"of {len(ranking):,} samples"),
        Number("strategy", strategy),
    ]
    if ids:
        mean = sum(scores[name] for name in ids) / len(ids)
        everyone = float(np.nanmean(ranking.scores))
        items.append(Number("mean score", f"{mean:.4g}", f"all samples: {everyone:.4g}"))
    return Numbers(items)


def ranking_of(materials: Materials, folder: Path) -> Ranking:
    """The ranking of an earlier run, or its store ranked anew; or scores from a file.

    Ranked anew is for another ``rank.method``, and where the run failed before it had a ranking.

    Raises:
        ConfigError: no run and no file is given.
        RankingError: the pool is not the one that was ranked.
    """
    if materials.cfg.rank.file is not None:
        return _of_file(materials, folder)
    source = source_folder(materials.cfg, materials.recipe)
    path = ranked_by(source)
    earlier = load_config(run_of(path))
    method = materials.cfg.rank.method
    fingerprint = earlier.facts.get("pool")
    if fingerprint is not None and fingerprint != materials.pool.fingerprint():
        raise RankingError(
            f"{materials.cfg.data.pool} is not the pool that {path} ranks: its ids or its text "
            f"differ. That was {earlier.data.pool}; leave data.pool out to use it, or value "
            "this pool with recipe=valuate."
        )
    if method == earlier.rank.method and path.name == RANKING:
        ranking = Ranking.load(path)
        log.info("ranking: %s (%s)", path, method)
    else:
        store = InfluenceStore(locate(source, STORE))
        ranking = valuate.rank(store, materials, folder)
    return fit_to_pool(ranking, materials.pool, str(path))


def _of_file(materials: Materials, folder: Path) -> Ranking:
    """Scores that anybody has given the pool, by id or in its order."""
    path, ids = materials.cfg.rank.file, materials.pool.ids
    ranking = load_scores(path)
    if ranking.metadata["positional"]:
        if len(ranking) != len(ids):
            raise RankingError(
                f"{path} has {len(ranking):,} scores without ids, and the pool {len(ids):,} rows."
            )
        ranking = replace(ranking, sample_ids=as_id_array(ids))
    ranking.save(folder / RANKING)
    log.info("ranking: %s", path)
    return fit_to_pool(ranking, materials.pool, str(path))


def choose(materials: Materials, ranking: Ranking, folder: Path, source: Path) -> list[SampleId]:
    """Ids of the chosen samples (or conversations); writes their rows.

    Args:
        materials: pool and settings.
        ranking: of the pool.
        folder: to write to.
        source: run whose codes ``select.strategy=diverse`` compares.
    """
    options = strategy_options(materials.cfg)
    ranking, pool = chosen_by(materials, ranking), chosen_from(materials)
    if options["strategy"] == "per_group":
        options["groups"] = _groups(pool)
    if options["strategy"] == "diverse":
        if pool is not materials.pool:
            raise ConfigError(
                "select.strategy=diverse compares samples, and these are turns: choose single ones "
                "(select.unit=turn), or whole conversations by another strategy."
            )
        options["codes"] = SampleCodes(InfluenceStore(locate(source, STORE)))
    ids = choose_ids(ranking, seed=materials.cfg.seed, **options)
    if options["strategy"] == "top_k" and (doubt := cut_through(ranking, len(ids))):
        log.warning("%s", doubt)
    write_chosen(materials, ranking, ids, folder)
    log.info("selected %d of %d samples", len(ids), len(ranking))
    if options["strategy"] == "diverse":
        last = ranking.ranks[ranking.sample_ids == ids[-1]].item()
        log.info("passed over %d near-copies of better samples", last - len(ids))
    return ids


def _groups(pool: Split) -> dict[Any, Any]:
    """Group of each id: its field ``group``, or else ``task``."""
    field = "group" if any(row.get("group") is not None for row in pool.rows) else "task"
    groups = dict(zip(pool.ids, (row.get(field) for row in pool.rows), strict=True))
    if all(group is None for group in groups.values()):
        raise RankingError(
            "select.strategy=per_group needs a field `group` (or `task`) in the rows of the pool."
        )
    return groups


def adopt_pool(cfg: Settings, source: Path, given: Collection[str]) -> None:
    """The pool is the one that was ranked.

    A run that was trained on a choice had that as its pool; the ranking is of a larger.
    """
    if "data.pool" not in given and cfg.rank.file is None:
        cfg.data.pool = load_config(run_of(ranked_by(source))).data.pool


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=page.train_on_it,
    takes_over=("rank", "select"),
    adopt=adopt_pool,
)
