"""The part of `score` that needs no gradient: samples of any number, from their text alone."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

from influcoder_lightning.data.overlap import PoolOverlap
from influcoder_lightning.data.rows import as_written, load_rows
from influcoder_lightning.data.written_rows import write_rows
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.influence.doubts import unsure
from influcoder_lightning.influence.methods.encoder import tower_and_queries
from influcoder_lightning.influence.ranking_file import save_confidence
from influcoder_lightning.influence.request import Request
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes.chosen_rows import strategy_options
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.score import Cost, score_sections
from influcoder_lightning.report.findings.ranking_curve import plot_ranking
from influcoder_lightning.run.materials import row_source
from influcoder_lightning.run.outputs import (
    CHOSEN,
    CONFIDENCE,
    RANKED,
    VALUED,
    share_sure,
    sureness,
)
from influcoder_lightning.run.recipe import Output
from influcoder_lightning.run.run_folder import RANKING, require, shown_path
from influcoder_lightning.run.saved_config import load_config, save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage
from influcoder_lightning.scoring.result import Sample, ScoredPool
from influcoder_lightning.scoring.run import Scoring
from influcoder_lightning.scoring.sealed_parts import ScoreParts
from influcoder_lightning.scoring.survey import Survey
from influcoder_lightning.selection.selection import select as choose_ids

log = logging.getLogger(__name__)
_STRATEGIES = ("top_k", "bottom_k", "random", "threshold")


def survey(cfg: Settings) -> Survey:
    """Read and check all rows of ``data.pool`` once, keeping none.

    Raises:
        DataError: a broken row, or a query that is evaluated on.
    """
    source = row_source(cfg, "pool", require(cfg, "data.pool", "score"))
    query, evaluation = (
        [] if cfg.data[name] is None else load_rows(cfg.data[name]) for name in ("query", "eval")
    )
    overlap = PoolOverlap(query, evaluation)
    with stage("reading the pool") as done:
        found = Survey.of(source, overlap, done)
        done.result = f"{found.n_rows:,} rows"
    return found


OUTPUTS = (
    RANKED,
    *CHOSEN,
    Output(CONFIDENCE, "how sure the text tower is of each score", "confidence", sureness),
    Output("scores", "the scores as they were computed, in sealed parts"),
    VALUED,
)


class TextScores:
    """Scores of a surveyed pool, in a run folder.

    Args:
        cfg: the configuration.
        folder: of the run.
        pool: what the survey found.

    Raises:
        ConfigError: the folder holds scores already, or a selection that text cannot make.
        DataError: rows of the pool that are evaluated on.
    """

    def __init__(self, cfg: Settings, folder: Path, pool: Survey) -> None:
        self.cfg, self.folder, self.pool = cfg, folder, pool
        self.parts = ScoreParts(folder / "scores", pool.n_rows, cfg.score.part_rows)
        self.parts.refuse_existing(cfg.resume)
        pool.overlap.verdict()
        if cfg.data.unit != "conversation":
            raise ConfigError(
                "recipe=score reads the text of whole rows; the earlier run valued turns. Give "
                "data.unit=conversation."
            )
        self._selects = cfg.select.k is not None or cfg.select.threshold is not None
        if self._selects and cfg.select.strategy not in _STRATEGIES:
            raise ConfigError(
                f"select.strategy={cfg.select.strategy} needs more than scores. Score without "
                f"select.k, then choose with recipe=select from={folder}; here: "
                f"{', '.join(_STRATEGIES)}."
            )
        if self._selects and (cfg.select.k or 0) > pool.n_rows:
            raise ConfigError(
                f"select.k={cfg.select.k} is more than the {pool.n_rows:,} rows of {cfg.data.pool}."
            )

    def write(self, store: InfluenceStore, query_ids: list[Any] | None) -> None:
        """Score what is not scored yet; then ranking, selection and page.

        Args:
            store: of the finished run, with the queries.
            query_ids: towards which; None: all of the store.

        Raises:
            RankingError: the run has no text tower, or no queries.
            ConfigError: the folder holds scores that depend on something else.
        """
        cfg, pool, parts = self.cfg, self.pool, self.parts
        request = Request("encoder", store=store, queries=query_ids)
        _, ids, queries = tower_and_queries(request)
        source = row_source(cfg, "pool", cfg.data.pool)
        scoring = Scoring(source, store.folder / "encoder", queries, parts, cfg.score.batch_size)
        parts.begin(scoring.settings(pool.fingerprint), cfg.resume)
        before = parts.n_sealed_rows()
        if before:
            log.info("%s of %s rows were scored before", f"{before:,}", f"{pool.n_rows:,}")
        left = pool.n_rows - before
        with stage("scoring", left, "rows") as done:
            scoring.run(cfg.score.processes, lambda sealed: done(sealed - before))
            done.result = f"{left:,} rows"
        cost = Cost(left, done.seconds, cfg.score.processes)
        with stage("ranking"):
            scored = ScoredPool(source, parts.read(), len(ids))
            ranking = scored.ranking
            ranking.save(self.folder / RANKING)
            save_confidence(ranking, self.folder / CONFIDENCE)
            tasks = None if pool.tasks is None else scored.of_samples(pool.tasks)
            plot_ranking(ranking, self.folder / "ranking.png", tasks)
        chosen = self._select(scored)
        save_config(cfg, self.folder, pool=pool.fingerprint)
        sections = score_sections(cfg, self.folder, scored, tasks, chosen, cost)
        page.write(self.folder, sections, OUTPUTS)
        log.info("ranked %s samples by encoder: %s", f"{len(ranking):,}", self.folder / RANKING)

    def _select(self, scored: ScoredPool) -> list[Sample]:
        if not self._selects:
            return []
        ids = choose_ids(scored.ranking, seed=self.cfg.seed, **strategy_options(self.cfg))
        with stage("reading the chosen rows"):
            chosen = scored.pick(ids)
            written = as_written(scored.source, [sample.place for sample in chosen])
        rows = [
            {**row, "influence_score": sample.score}
            for row, sample in zip(written, chosen, strict=True)
        ]
        path = write_rows(rows, self.folder, self.cfg.select.output)
        log.info("selected %s samples: %s", f"{len(ids):,}", path)
        return chosen


def go_on(folder: Path) -> str:
    """To choose by the scores, or, where the text tower is not sure of them, to value the rows."""
    confidence = folder / CONFIDENCE
    if not confidence.is_file() or unsure(share_sure(confidence)) is None:
        return page.choose_some(folder)
    cfg = load_config(folder)
    pool = cfg.data.pool if isinstance(cfg.data.pool, str) else "[...]"
    source = shlex.quote(shown_path(Path(cfg["from"])))
    return f"influcoder recipe=valuate from={source} data.pool={shlex.quote(pool)}"
