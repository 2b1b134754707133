"""Conversations as samples turn by turn: everything before a turn is prompt, the loss is on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from influcoder_lightning.data.conversation import Message, as_texts
from influcoder_lightning.data.formats import Row, TextRow
from influcoder_lightning.errors import DataError
from influcoder_lightning.ids import SampleId


class Turn(NamedTuple):
    """One turn of the assistant, or a whole row, as a sample.

    Attributes:
        row: the messages up to it; all turns before it have weight 0.
        id: ``conversation/number`` (the assistant's turns are numbered from 0), or the row's own id
            where it has one turn.
        conversation: id of the whole row.
        place: of the whole row in its source.
    """

    row: Row
    id: SampleId
    conversation: SampleId
    place: int


def whole_rows(rows: Sequence[Row], ids: Sequence[SampleId]) -> Iterator[Turn]:
    """Every row as one sample."""
    for place, (row, name) in enumerate(zip(rows, ids, strict=True)):
        yield Turn(row, name, name, place)


def as_turns(rows: Sequence[TextRow], ids: Sequence[SampleId]) -> list[Turn]:
    """`turns`, whose ids are all of one kind.

    Raises:
        DataError: a row has the id that a turn of another row gets.
    """
    found = list(turns(rows, ids))
    if any(isinstance(turn.id, str) for turn in found):
        found = [turn._replace(id=str(turn.id)) for turn in found]
    owners: dict[SampleId, int] = {}
    for turn in found:
        owner = owners.setdefault(turn.id, turn.place)
        if owner != turn.place and ids[owner] != ids[turn.place]:
            raise DataError(
                f"rows {owner} and {turn.place} both give the id {turn.id!r}: the turns of a row "
                "are named <its id>/<number>. Rename one of the rows."
            )
    return found


def turns(rows: Sequence[TextRow], ids: Sequence[SampleId]) -> Iterator[Turn]:
    """The turns of all rows, in order; those of weight 0 are none.

    Args:
        rows: as of ``load_rows``.
        ids: one per row.
    """
    for place, (row, name) in enumerate(zip(rows, ids, strict=True)):
        messages = row.get("messages") or []
        own = _of_assistant(messages)
        if len(own) < 2:
            yield Turn(dict(row), name, name, place)
            continue
        for number, at in enumerate(own):
            if messages[at].get("weight", 1) == 0:
                continue
            upto = [*silent_but(messages[:at], ()), messages[at]]
            prompt, response = as_texts(upto)
            texts = {"prompt": prompt, "response": response, "messages": upto}
            yield Turn({**row, **texts}, f"{name}/{number}", name, place)


def silent_but(messages: Sequence[Message], numbers: Collection[int]) -> list[Message]:
    """Messages whose turns of the assistant have weight 0, but for some of them.

    Args:
        messages: of a conversation, as a `Row` has them.
        numbers: of the assistant's turns that keep their loss.
    """
    spared = {at for number, at in enumerate(_of_assistant(messages)) if number in numbers}
    return [
        {**message, "weight": 0} if message["role"] == "assistant" and at not in spared else message
        for at, message in enumerate(messages)
    ]


def _of_assistant(messages: Sequence[Message]) -> list[int]:
    return [at for at, message in enumerate(messages) if message["role"] == "assistant"]
