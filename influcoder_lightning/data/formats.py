"""The formats of rows, one entry each: which columns it has, and what is made of them.

| format | columns |
|---|---|
| prompt_response | ``prompt``, ``response`` |
| prompt_completion | ``prompt``, ``completion``: texts, or lists of messages (TRL) |
| messages | ``messages`` (OpenAI, TRL), optionally ``tools`` |
| conversations | ``conversations`` (ShareGPT), optionally ``tools`` |
| alpaca | ``instruction``, ``output``, optionally ``input``, ``history`` |
| dolly | ``instruction``, ``response``, optionally ``context``, ``input``, ``history`` |
| qa | ``question``, ``answer`` |
| question_response, query_response, problem_solution, input_output | these two |
| preference | ``prompt``, ``chosen``, ``rejected``; or conversations that begin alike |
| rejected | the same, the other answer |
| text | ``text``: every token has a loss |

Those with two texts, and those with messages, may have ``system`` (or ``system_prompt``), too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from influcoder_lightning.data.conversation import (
    Message,
    as_texts,
    check_answered,
    given,
    messages_of,
    pair,
    parsed_json,
)
from influcoder_lightning.errors import DataError

Row = dict[str, Any]
"""A row as everything behind the readers knows it: ``prompt`` and ``response`` (texts), where
given ``id``, ``task``, ``group``; ``messages`` and ``tools`` of a conversation; ``plain`` where the
row is a text without a frame; and the columns of the file that are none of these."""


TextRow = Mapping[str, Any]
"""A row that is only read."""

_SYSTEM = ("system", "system_prompt")
_BESIDE = (*_SYSTEM, "history", "tools")


@dataclass(frozen=True)
class Format:
    """One way to write a row.

    Attributes:
        name: as `data.format` has it.
        needs: columns without which a row is none.
        says: what becomes of them, for the log.
        read: from a row of the file, and where it stands, to what a `Row` has of it.
        may: columns that are used where a row has them.
    """

    name: str
    needs: tuple[str, ...]
    says: str
    read: Callable[[Row, str], Row]
    may: tuple[str, ...] = ()


def recognised(row: Mapping[str, object]) -> Format | None:
    """The first format whose columns a row has; None where there is none."""
    if (own := _written_here(row)) is not None:
        return own
    filled = [name for name, value in row.items() if value is not None]
    for names in (filled, list(row)):  # a table has every column in every row; null is not given
        for kind in FORMATS.values():
            if set(kind.needs) <= set(names):
                return kind
    return None


def _text(raw: Row, name: str, where: str) -> str:
    value = raw[name]
    if not isinstance(value, str):
        raise DataError(
            f"{where}: the field {name!r} must be a string, not {type(value).__name__}."
        )
    return value


def _pair(prompt: str, response: str) -> Callable[[Row, str], Row]:
    def read(raw: Row, where: str) -> Row:
        asked, answer = _text(raw, prompt, where), _text(raw, response, where)
        return _turn([], asked, answer, raw, where)

    return read


def _turn(before: list[Message], asked: str, answer: str, raw: Row, where: str) -> Row:
    """A pair of texts; a conversation, where there is more than them."""
    if not before and not _system(raw) and not raw.get("tools"):
        return {"prompt": asked, "response": answer}
    return _conversation([*before, *pair(asked, answer)], raw, where)


def _system(raw: Row) -> str | None:
    """The column of the system's words that a row has something in."""
    return next((name for name in _SYSTEM if raw.get(name)), None)


def _plain(raw: Row, where: str) -> Row:
    return {"prompt": "", "response": _text(raw, "text", where), "plain": True}


def _instruction(response: str) -> Callable[[Row, str], Row]:
    def read(raw: Row, where: str) -> Row:
        parts = [_text(raw, "instruction", where)]
        parts += [_text(raw, name, where) for name in ("input", "context") if raw.get(name)]
        prompt, answer = "\n\n".join(parts), _text(raw, response, where)
        return _turn(_history(raw, where), prompt, answer, raw, where)

    return read


def _history(raw: Row, where: str) -> list[Message]:
    """Earlier turns, pairs of what was asked and answered."""
    pairs: Any = raw.get("history") or []
    if isinstance(pairs, str):  # of a CSV
        pairs = parsed_json(pairs, where, "history")
    texts = isinstance(pairs, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
        for turn in pairs
    )
    if not texts:
        raise DataError(f"{where}: the field 'history' must be a list of [question, answer].")
    return [message for asked, answer in pairs for message in pair(asked, answer)]


def _messages(column: str) -> Callable[[Row, str], Row]:
    def read(raw: Row, where: str) -> Row:
        return _conversation(messages_of(raw[column], where, column), raw, where)

    return read


def _completion(column: str) -> Callable[[Row, str], Row]:
    """TRL's: prompt and completion are both texts, or both lists of messages."""

    def read(raw: Row, where: str) -> Row:
        if isinstance(raw["prompt"], str) and isinstance(raw[column], str):
            return _turn([], raw["prompt"], raw[column], raw, where)
        if isinstance(raw["prompt"], str) or isinstance(raw[column], str):
            raise DataError(
                f"{where}: 'prompt' and {column!r} must both be texts, or both lists of messages."
            )
        parts = [messages_of(raw[name], where, name) for name in ("prompt", column)]
        return _conversation([*given(parts[0]), *parts[1]], raw, where)

    return read


def _preferred(column: str, other: str) -> Callable[[Row, str], Row]:
    """Answers beside a prompt, or whole conversations that begin alike."""

    def read(raw: Row, where: str) -> Row:
        if isinstance(raw.get("prompt"), str) == isinstance(raw[column], str) and "prompt" in raw:
            return _completion(column)(raw, where)
        if isinstance(raw[column], str):
            raise DataError(
                f"{where}: {column!r} is a text, and there is no prompt beside it. Say which "
                "column has the prompt (data.columns), or write it as a list of messages."
            )
        said = messages_of(raw[column], where, column)
        alike = len(said) - 1
        if isinstance(raw.get(other), list):
            pairs = zip(said, messages_of(raw[other], where, other), strict=False)
            alike = min(alike, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return _conversation([*given(said[:alike]), *said[alike:]], raw, where)

    return read


def _conversation(messages: list[Message], raw: Row, where: str) -> Row:
    system = _system(raw)
    if system and messages[0]["role"] not in ("system", "developer"):
        messages = [{"role": "system", "content": _text(raw, system, where)}, *messages]
    check_answered(messages, where)
    prompt, response = as_texts(messages)
    row: Row = {"prompt": prompt, "response": response, "messages": messages}
    if tools := raw.get("tools"):
        row["tools"] = parsed_json(tools, where, "tools") if isinstance(tools, str) else tools
    return row


def _written_here(row: Mapping[str, object]) -> Format | None:
    """The format of a `Row` that a run has written: it has both texts beside its messages."""
    if row.get("plain") is True and row.get("text") == row.get("response"):
        return FORMATS["text"]
    messages = row.get("messages")
    try:
        if isinstance(messages, list) and {"prompt", "response"} <= row.keys():
            texts = as_texts(messages)
            return FORMATS["messages"] if (row["prompt"], row["response"]) == texts else None
    except (KeyError, TypeError):  # messages of somebody else
        pass
    return None


_INPUTS = ("input", "context")
_PAIRS = (("qa", "question", "answer"), ("question_response", "question", "response"),
          ("query_response", "query", "response"), ("problem_solution", "problem", "solution"),
          ("input_output", "input", "output"))  # fmt: skip
_ALL = (
    Format("prompt_response", ("prompt", "response"), "prompt -> user, response -> assistant",
           _pair("prompt", "response"), ("tools", *_SYSTEM)),
    Format("messages", ("messages",), "the messages as they are",
           _messages("messages"), ("tools", *_SYSTEM)),
    Format("conversations", ("conversations",), "human -> user, gpt -> assistant",
           _messages("conversations"), (*_SYSTEM, "tools")),
    Format("preference", ("chosen",), "prompt -> user, chosen -> assistant",
           _preferred("chosen", "rejected"), ("prompt", "rejected", "tools", *_SYSTEM)),
    Format("rejected", ("rejected",), "prompt -> user, rejected -> assistant",
           _preferred("rejected", "chosen"), ("prompt", "chosen", "tools", *_SYSTEM)),
    Format("prompt_completion", ("prompt", "completion"),
           "prompt -> user, completion -> assistant",
           _completion("completion"), ("tools", *_SYSTEM)),
    Format("alpaca", ("instruction", "output"),
           "instruction + input -> user, output -> assistant",
           _instruction("output"), (*_INPUTS, *_BESIDE)),
    Format("dolly", ("instruction", "response"),
           "instruction + context -> user, response -> assistant",
           _instruction("response"), (*_INPUTS, *_BESIDE)),
    *(Format(name, (asked, answer), f"{asked} -> user, {answer} -> assistant",
             _pair(asked, answer), ("tools", *_SYSTEM)) for name, asked, answer in _PAIRS),
    Format("text", ("text",), "every token has a loss", _plain),
)  # fmt: skip
FORMATS = {kind.name: kind for kind in _ALL}
"""By name, in the order in which they are recognised."""
