"""From a ranking to the file of chosen rows: whole rows as the user has them, or turns of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from influcoder_lightning.data.conversation import messages_of_row
from influcoder_lightning.data.rows import as_written
from influcoder_lightning.data.turns import silent_but
from influcoder_lightning.data.written_rows import write_rows
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.ids import SampleId, id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.run.materials import Materials, row_source
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.split import Split
from influcoder_lightning.selection.selection import select_rows

log = logging.getLogger(__name__)


def chosen_from(materials: Materials) -> Split:
    """The pool under the ids that are chosen: of samples, or of whole conversations.

    Raises:
        ConfigError: turns are to be chosen, and the pool's samples are whole conversations.
    """
    check_unit(materials.cfg)
    by_turn = materials.cfg.select.unit == "turn"
    return materials.pool if by_turn else materials.pool.whole()


def check_unit(cfg: Settings) -> None:
    """Raise ``ConfigError`` where turns are to be chosen and whole rows were valued."""
    if cfg.select.unit == "turn" and cfg.data.unit != "turn":
        raise ConfigError(
            "select.unit=turn chooses from turns that were valued one by one: value with "
            "data.unit=turn, or leave select.unit out."
        )


def chosen_by(materials: Materials, ranking: Ranking) -> Ranking:
    """The ranking of the pool as one of what is chosen from, see `chosen_from`."""
    by_turn = materials.cfg.select.unit == "turn"
    return ranking if by_turn else materials.pool.of_conversations(ranking)


def strategy_options(cfg: Settings) -> dict[str, Any]:
    """Arguments of `select`: the settings but for those of what is written."""
    return {n: v for n, v in plain(cfg.select).items() if n not in ("unit", "output")}


def write_chosen(
    materials: Materials, ranking: Ranking, ids: Sequence[SampleId], folder: Path
) -> Path:
    """Write the rows of chosen ids, best first, each with its `influence_score`.

    Chosen turns come as one row per conversation in the format `messages`, whose other turns have
    weight 0; its score is the mean over the chosen turns, weighted by their tokens.

    Args:
        materials: pool and settings.
        ranking: as of `chosen_by`.
        ids: of it.
        folder: to write to.
    """
    cfg, pool = materials.cfg, materials.pool
    if cfg.select.unit == "turn":
        rows = _turns(materials, ranking, ids)
        log.info("%d turns of %d rows; their other turns have weight 0", len(ids), len(rows))
    else:
        names = dict(zip(pool.places, pool.whole().ids, strict=True))
        source = row_source(cfg, "pool", cfg.data.pool)
        written = as_written(source, list(names))
        rows = select_rows(written, ids, ranking, list(names.values()))
    return write_rows(rows, folder, cfg.select.output)


def _turns(materials: Materials, ranking: Ranking, ids: Sequence[SampleId]) -> list[dict[str, Any]]:
    pool, wanted = materials.pool, {str(name) for name in ids}
    conversations = pool.whole().ids
    numbers: dict[int, set[int]] = {}  # by place of the row; empty where it is whole
    for name, conversation, place in zip(pool.ids, conversations, pool.places, strict=True):
        if str(name) in wanted:
            found = numbers.setdefault(place, set())
            if str(name) != str(conversation):
                found.add(int(str(name).rpartition("/")[2]))
    places = list(numbers)
    names = dict(zip(pool.places, conversations, strict=True))
    source = row_source(materials.cfg, "pool", materials.cfg.data.pool)
    rows = as_written(source, places)
    if any(numbers.values()):  # else all rows are whole, and stay as they are
        rows = [
            {name: value for name, value in raw.items() if name not in used}
            | _silenced(row, numbers[place])
            for place, raw, (row, used) in zip(places, rows, source.at(places), strict=True)
        ]
    chosen = [at for at, key in enumerate(id_keys(ranking.sample_ids)) if key in wanted]
    of_chosen = Ranking(ranking.sample_ids[chosen], ranking.scores[chosen])
    means = pool.of_conversations(of_chosen)
    return select_rows(rows, means.sample_ids.tolist(), means, [names[place] for place in places])


def _silenced(row: dict[str, Any], kept: set[int]) -> dict[str, Any]:
    """The row as messages; nothing kept: it is whole, and all its turns keep their loss."""
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    messages = messages_of_row(row)
    return {"messages": silent_but(messages, kept) if kept else messages, **tools}
