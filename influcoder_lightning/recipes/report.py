"""report: the page of a valuation, also of one that the callback did in a training of your own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from influcoder_lightning.data.census import Census, census
from influcoder_lightning.data.rows import row_ids, write_jsonl
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import get_method
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.valuation import valuation_sections
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.materials import Materials, fit_to_pool, row_source
from influcoder_lightning.run.outputs import RANKED
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.run_folder import (
    RANKING,
    STORE,
    absolute_paths,
    locate,
    require,
    source_folder,
)
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings, resolved
from influcoder_lightning.run.split import Split
from influcoder_lightning.run.stages import stage

log = logging.getLogger(__name__)
OUTPUTS = (RANKED,)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``ranking.csv``, ``report.html`` and ``report.md``."""
    store = InfluenceStore(locate(source_folder(cfg, "report"), STORE))
    # Turns are cut out of rows as tokens say; whole rows need no tokenizer.
    by_turn = cfg.data.unit == "turn"
    about: page.Reported = Materials(cfg, "report") if by_turn else _Rows(cfg, store)
    method = cfg.rank.method
    with stage("ranking") as done:
        ranking = store.rank(method, data=about.pool.identified())
        fit_to_pool(ranking, about.pool, "the ranking")
        ranking.save(folder / RANKING)
        done.result = f"{len(ranking):,} samples by {method}"
    _write(about, store, ranking, folder)


def write_report(
    store: InfluenceStore | str | Path,
    pool: str | Path | Iterable[Mapping[str, Any]],
    folder: str | Path | None = None,
    *,
    method: str = "fisher",
) -> Path:
    """Write the report of a store that the callback has written; as ``recipe=report`` does.

    The folder becomes a run folder: ``influcoder recipe=select|compare from=<folder>`` go on from
    it (``compare`` with ``model.name=`` and ``data.eval=``).

    Args:
        store: or its folder.
        pool: the training samples, a file of rows, or rows with ``prompt`` and ``response`` (or
            ``messages``); ids as in the training, or none where those were positions.
        folder: to write to; None: the one that the store lies in.
        method: that ranks.

    Returns:
        The path of ``report.html``.

    Raises:
        RankingError: the store holds ids that the pool does not have; an unknown method.
    """
    store = store if isinstance(store, InfluenceStore) else InfluenceStore(store)
    folder = Path(folder) if folder is not None else store.folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    get_method(method)
    cfg = resolved(defaults()).copy()
    cfg["from"] = None if store.folder == folder / STORE else str(store.folder)
    cfg.rank.method = method if len(store.query_ids) else "self"
    if isinstance(pool, str | Path):
        cfg.data.pool = str(pool)
    else:
        rows = [dict(row) for row in pool]
        cfg.data.pool = str(folder / "pool.jsonl")
        write_jsonl(
            [{**row, "id": name} for row, name in zip(rows, row_ids(rows), strict=True)],
            cfg.data.pool,
        )
    cfg = absolute_paths(cfg)
    about = _Rows(cfg, store)
    ranking = store.rank(cfg.rank.method, data=about.pool.identified())
    fit_to_pool(ranking, about.pool, "the ranking")
    ranking.save(folder / RANKING)
    _write(about, store, ranking, folder)
    return folder / "report.html"


def _write(about: page.Reported, store: InfluenceStore, ranking: Ranking, folder: Path) -> None:
    save_config(about.cfg, folder, **_facts(about))
    page.write(
        folder,
        [
            page.opening("Valued samples", about, page.ranked(ranking, about)),
            page.ranking_section(ranking, about.pool),
            *valuation_sections(about, store, ranking, folder),
        ],
        OUTPUTS,
        go_on=True,
    )


def _facts(about: page.Reported) -> dict[str, Any]:
    """Whole rows have one fingerprint, tokenised or not, unless some have nothing to learn."""
    return {"pool": about.pool.fingerprint()} if isinstance(about, Materials) else {}


class _Rows:
    """The pool of a report, which needs no tokens."""

    def __init__(self, cfg: Settings, store: InfluenceStore) -> None:
        self.cfg, self._store = cfg.copy(), store
        if cfg.model.name is None:
            self.cfg.model.name = str(store.attributes.get("lora", {}).get("model", "unknown"))

    @cached_property
    def pool(self) -> Split:
        """All rows, whole."""
        place = require(self.cfg, "data.pool", "report")
        rows, shape = row_source(self.cfg, "pool", place).load()
        log.info("pool: %d rows, %s", len(rows), shape.says())
        ids = list(row_ids(rows))
        if not rows:
            raise ConfigError(f"data.pool={place}: there are no rows.")
        return Split(rows, ids, rows, range(len(rows)), [1] * len(rows), None)  # type: ignore[arg-type]

    @cached_property
    def census(self) -> Census:
        """What is odd about the pool."""
        return census(self.pool.rows)

    @property
    def n_queries(self) -> int:
        """Of the store."""
        return len(self._store.query_ids)


RECIPE = Recipe(run, OUTPUTS, next_command=page.choose_some, takes_over=("rank",))
