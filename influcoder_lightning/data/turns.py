"""Conversations as samples turn by turn: everything before a turn is prompt, the loss is on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from influcoder_lightning.data.conversation import as_texts
from influcoder_lightning.data.formats import Row, TextRow
from influcoder_lightning.ids import SampleId


class Turn(NamedTuple):
    """One turn of the assistant, or a row that is no conversation, as a row of its own.

    Attributes:
        row: the messages up to it; all turns before it have weight 0.
        id: ``conversation/number``, or the row's own id where it has one turn.
        place: of the whole row in its source.
    """

    row: Row
    id: SampleId
    place: int


def turns(rows: Sequence[TextRow], ids: Sequence[SampleId]) -> Iterator[Turn]:
    """The turns of all rows, in order; those of weight 0 are none.

    Args:
        rows: as of ``load_rows``.
        ids: one per row.
    """
    for place, (row, name) in enumerate(zip(rows, ids, strict=True)):
        messages = row.get("messages") or []
        own = [
            i
            for i, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("weight", 1) != 0
        ]
        if len(own) < 2:
            yield Turn(dict(row), name, place)
            continue
        for number, at in enumerate(own):
            before = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages[:at]]
            upto = [*before, messages[at]]
            prompt, response = as_texts(upto)
            texts = {"prompt": prompt, "response": response, "messages": upto}
            yield Turn({**row, **texts}, f"{name}/{number}", place)
