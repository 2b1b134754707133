"""Tables of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import RankingError
from influcoder_lightning.ids import as_id_array, first_few, id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.findings.comparison import Comparison, arm_order
from influcoder_lightning.report.press.blocks import Table


def sample_table(
    ranking: Ranking,
    rows: Sequence[TextRow],
    row_ids: Iterable[object],
    ids: Iterable[object],
    limit: int = 120,
) -> Table:
    """Rank, score, id, task (where any row has one), prompt and response of some samples.

    Args:
        ranking: gives rank and score.
        rows: the pool.
        row_ids: id of each row; the first row with an id is shown.
        ids: samples to show, in this order, as `top_k` or `bottom_k` return them.
        limit: characters shown of a prompt or response.

    Raises:
        RankingError: an id that is not in the pool or the ranking.
    """
    pool = id_keys(as_id_array(row_ids))
    if len(pool) != len(rows):
        raise RankingError(f"{len(rows)} rows and {len(pool)} row ids; give one id per row")
    by_key: dict[str, TextRow] = {}
    for key, row in zip(pool, rows, strict=True):
        by_key.setdefault(key, row)
    position = {key: place for place, key in enumerate(id_keys(ranking.sample_ids))}
    keys = id_keys(as_id_array(ids))
    if unknown := [key for key in keys if key not in by_key or key not in position]:
        raise RankingError(
            f"{len(unknown)} samples to show are not in the pool or the ranking: "
            f"{first_few(unknown)}; use the pool that was valued"
        )
    with_task = any(by_key[key].get("task") is not None for key in keys)
    columns = ["rank", "score", "sample", *(["task"] if with_task else []), "prompt", "response"]
    lines: list[list[object]] = []
    for key in keys:
        row, place = by_key[key], position[key]
        task = [row.get("task")] if with_task else []
        line = [int(ranking.ranks[place]), float(ranking.scores[place]), key, *task]
        lines.append([*line, row.get("prompt"), row.get("response")])
    return Table(columns, lines, limit=limit)


def arms_table(comparison: Comparison) -> Table:
    """Mean held-out loss, interval and distance from the random arm of each arm."""
    arms = comparison["arms"]
    control = arms.get("random_k")
    rows: list[list[object]] = []
    for name in arm_order(arms):
        arm = arms[name]
        low, high = arm["ci95"] or (None, None)
        difference = None if control is None else arm["mean"] - control["mean"]
        rows.append([name, arm["mean"], low, high, difference, len(arm["eval_loss"])])
    return Table(
        ["arm", "mean loss", "95 % from", "to", "against random_k", "runs"],
        rows,
    )
