"""Messages of a conversation, checked, and as the two texts that methods on text compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from influcoder_lightning.errors import DataError, did_you_mean

Message = dict[str, Any]
"""``role``, ``content`` (text, empty where there are only tool calls), and what else the row has:
``tool_calls``, ``tool_call_id``, ``name``, ``weight`` (0: no loss on this turn)."""

ROLES = ("system", "developer", "user", "assistant", "tool")
_OTHER_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
_FIRST = ("system", "developer")


def messages_of(value: object, where: str, column: str) -> list[Message]:
    """The messages of a column: OpenAI's and TRL's words, ShareGPT's (``from``, ``value``), or
    texts alone, the first of them the user's.

    Raises:
        DataError: no list of messages, a role that is unknown or out of order, or content that is
            no text.
    """
    if isinstance(value, str):  # a CSV, or a Parquet file of texts
        value = parsed_json(value, where, column)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the column {column!r} must be a list of messages.")
    if all(isinstance(item, str) for item in value):  # who says what goes by turns
        value = [
            {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)
        ]
    found = [_message(item, f"{where}: message {i}", column) for i, item in enumerate(value)]
    for index, message in enumerate(found):
        before = found[index - 1]["role"] if index else None
        if message["role"] in _FIRST and before is not None:
            raise DataError(
                f"{where}: message {index} is of the {message['role']}, which can only come first."
            )
        if message["role"] == "tool" and before not in ("assistant", "tool"):
            raise DataError(
                f"{where}: message {index} is of a tool, and none was called before it."
            )
    return found


def pair(prompt: str, response: str) -> list[Message]:
    """A question and its answer as messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def messages_of_row(row: Mapping[str, Any]) -> list[Message]:
    """The messages of a row; of one without any its prompt and its response."""
    return list(row.get("messages") or pair(row["prompt"], row["response"]))


def is_pair(messages: Sequence[Message]) -> bool:
    """Whether there is no more in them than one question and its answer."""
    return [message["role"] for message in messages] == ["user", "assistant"]


def given(messages: Sequence[Message]) -> list[Message]:
    """Messages that are there already: the assistant's have no loss, unless they say so."""
    return [{"weight": 0, **m} if m["role"] == "assistant" else m for m in messages]


def check_answered(messages: Sequence[Message], where: str) -> None:
    """Raise ``DataError`` for a conversation without a turn of the assistant."""
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"{where}: no turn of the assistant, so that there is no token with a loss (roles: "
            f"{roles:.100}). Take the row out."
        )


def parsed_json(text: str, where: str, column: str) -> object:
    """A column that holds JSON as text."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: the column {column!r} is no valid JSON: {error}.") from error
    return value


def as_texts(messages: Sequence[Message]) -> tuple[str, str]:
    """What the assistant was given, and what it says: parts of each kind, an empty line between.

    Turns of weight 0, which have no loss, are given.

    Example:
        >>> as_texts([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}])
        ('Hi', 'Ho')
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for message in messages:
        says = message["role"] == "assistant" and message.get("weight", 1) != 0
        parts[says].append(text_of(message))
    given, said = ("\n\n".join(filter(None, part)) for part in parts)
    return given, said


def text_of(message: Message) -> str:
    """What a message says; tool calls as JSON behind it."""
    calls = message.get("tool_calls")
    text: str = message["content"]
    return f"{text}{json.dumps(calls, ensure_ascii=False)}" if calls else text


def _message(item: object, where: str, column: str) -> Message:
    if not isinstance(item, Mapping):
        raise DataError(f"{where} of {column!r} must be an object, not {type(item).__name__}.")
    names = ("from", "value") if "from" in item and "role" not in item else ("role", "content")
    role = item.get(names[0])
    if role == "function_call":
        return _called(item.get(names[1]), where)
    known = _OTHER_NAMES.get(str(role), role)
    if known not in ROLES:
        raise DataError(
            f"{where}: unknown role {role!r:.60}{did_you_mean(str(role), ROLES)} Known roles: "
            f"{', '.join(ROLES)}."
        )
    if names[1] not in item and not item.get("tool_calls") and not item.get("function_call"):
        fields = ", ".join(map(str, item))
        raise DataError(
            f"{where} of {column!r} has a role and no {names[1]}; its fields: {fields:.100}."
        )
    if item.get("weight") not in (None, 0, 1):
        raise DataError(f"{where}: weight {item['weight']!r:.40} must be 0 (no loss) or 1.")
    message = {name: value for name, value in item.items() if name not in names}
    # A table has every field in every message; what is null was not there.
    message = {name: value for name, value in message.items() if value is not None}
    if "function_call" in message:  # OpenAI's word before there were several tools
        call = _called(message.pop("function_call"), where)
        message["tool_calls"] = call["tool_calls"]
    return {"role": known, "content": _text(item.get(names[1]), where), **message}


def _text(content: object, where: str) -> str:
    """Content as text; a list of parts, as OpenAI has it, where all are texts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
        raise DataError(
            f"{where}: content with parts that are no text; images and sound need your own module "
            "and loader (see the page on your own Trainer)."
        )
    raise DataError(f"{where}: content must be a text, not {type(content).__name__}.")


def _called(value: object, where: str) -> Message:
    """A ShareGPT turn that calls a function: JSON with its name and arguments."""
    call = parsed_json(value, where, "value") if isinstance(value, str) else value
    if not isinstance(call, Mapping) or "name" not in call:
        raise DataError(f"{where}: a function_call must be JSON with name and arguments.")
    function = {"name": call["name"], "arguments": call.get("arguments", {})}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }
