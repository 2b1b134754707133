"""The samples of a ranking, as a page lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from influcoder_lightning.data.conversation import Message, is_pair, text_of
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.ids import id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.report.press.blocks import Samples, Turns

if TYPE_CHECKING:
    from influcoder_lightning.report.findings.ambiguous import Spread

_ENDS = 10_000  # samples of each end of the ranking that are considered; a page holds fewer
MARKED = 20


def samples_of(
    ranking: Ranking,
    rows: Sequence[TextRow],
    row_ids: Iterable[object],
    spread: Spread | None = None,
    selected: Iterable[object] = (),
) -> Samples:
    """All samples that have a score, best first; of a large pool both ends of the ranking.

    Args:
        ranking: gives rank, score and confidence.
        rows: the pool.
        row_ids: id of each row; the first row with an id is shown.
        spread: on which samples queries or methods disagree; None: unknown.
        selected: ids that were chosen.
    """
    order = ranking.order[: ranking.n_scored].tolist()
    ambiguous = [] if spread is None else spread.most(MARKED).tolist()
    places = order
    if len(order) > 2 * _ENDS:
        ends = {*order[:_ENDS], *order[-_ENDS:], *ambiguous}
        places = [place for place in order if place in ends]
    by_key: dict[str, TextRow] = {}
    for name, row in zip(row_ids, rows, strict=True):
        by_key.setdefault(str(name), row)
    named = [name for name in ("task", "group") if any(row.get(name) is not None for row in rows)]
    keys = id_keys(ranking.sample_ids[places])
    columns: dict[str, Sequence[object]] = {
        "rank": ranking.ranks[places].tolist(),
        "score": ranking.scores[places].tolist(),
        "percentile": [
            round(100 * (rank - 1) / max(1, len(order) - 1), 1)
            for rank in ranking.ranks[places].tolist()
        ],
    }
    if spread is not None:
        columns["spread"] = spread.values[places].tolist()
    if ranking.confidence is not None:
        columns["confidence"] = ranking.confidence[places].tolist()
    columns["sample"] = keys
    shown_rows = [by_key.get(key, {}) for key in keys]
    for name in named:
        columns[name] = [row.get(name) for row in shown_rows]
    turns = [turns_of(row) for row in shown_rows]
    columns["prompt"] = [
        row.get("prompt") if not said else _last_question(said)
        for row, said in zip(shown_rows, turns, strict=True)
    ]
    columns["response"] = [row.get("response") for row in shown_rows]
    at = {place: line for line, place in enumerate(places)}
    shown = min(MARKED, len(places))
    marks: dict[str, Sequence[int]] = {
        "best": list(range(shown)),
        "worst": [len(places) - 1 - line for line in range(shown)],
    }
    if ambiguous:
        marks["most ambiguous"] = [at[place] for place in ambiguous if place in at]
    if chosen := {str(name) for name in selected}:
        marks["selected"] = [line for line, key in enumerate(keys) if key in chosen]
    lines = list(zip(*columns.values(), strict=True))
    conversations = turns if any(turns) else []
    return Samples(list(columns), lines, marks, len(order), conversations=conversations)


def turns_of(row: TextRow) -> Turns:
    """Who says what in a conversation; nothing where the row is one question and its answer."""
    messages = row.get("messages") or []
    if is_pair(messages):
        return []
    return [(_who(message), text_of(message)) for message in messages]


def _last_question(turns: Turns) -> str:
    """What tells a conversation from others, where there is no room for all of it."""
    return next((said for who, said in reversed(turns) if who == "user"), turns[0][1])


def _who(message: Message) -> str:
    silent = message["role"] == "assistant" and message.get("weight", 1) == 0
    return f"{message['role']} (no loss)" if silent else str(message["role"])
