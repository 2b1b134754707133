"""From a template to what encodes rows with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from influcoder_lightning.data.chat import ChatEncoder, ChatTemplate
from influcoder_lightning.data.conversation import is_pair
from influcoder_lightning.data.encoded import Encoded
from influcoder_lightning.data.formats import TextRow
from influcoder_lightning.data.template import FrameEncoder, Template
from influcoder_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[Sequence[TextRow], Sequence[str]], list[Encoded]]
"""Rows, and where each stands, to their tokens."""

INSTRUCTION = "instruction"
_ENDS = {"\\n": "a line break", "\\t": "a tab"}


def encoder_of(
    tokenizer: PreTrainedTokenizerBase,
    template: Template | ChatTemplate | str,
    train_on: str = "assistant",
) -> Encode:
    """What encodes rows with a template.

    Raises:
        ConfigError: the tokenizer has no chat template, or the text is no frame.
    """
    if isinstance(template, str):
        template = template_called(template, tokenizer)
    if isinstance(template, ChatTemplate):
        chat = ChatEncoder(tokenizer, train_on)
        return lambda rows, names: [
            _plain(tokenizer, row) if row.get("plain") else chat.encode(row, name)
            for row, name in zip(rows, names, strict=True)
        ]
    return _Frames(tokenizer, template, train_on)


def template_called(
    name: str | None, tokenizer: PreTrainedTokenizerBase
) -> Template | ChatTemplate:
    """A template as a configuration names it: ``chat``, ``instruction``, or a frame's own text.

    None: the tokenizer's own chat template where it has one, else the instruction frame.

    Raises:
        ConfigError: a frame without its two places, or in which a shell has left backslashes.
    """
    if name is None:
        return default_template(tokenizer)
    if name == ChatTemplate().text:
        return ChatTemplate()
    return frame_template(tokenizer) if name == INSTRUCTION else _frame(name)


def _frame(text: str) -> Template:
    for written, meant in _ENDS.items():
        if written in text and "\n" not in text:
            raise ConfigError(
                f"the template {text!r:.200} has a backslash and a letter where {meant} may be "
                f"meant: a shell does not turn {written} into one. Write $'...' around the "
                "argument (bash, zsh), or put the template into a YAML file."
            )
    return Template(text)


def default_template(tokenizer: PreTrainedTokenizerBase) -> Template | ChatTemplate:
    """The tokenizer's own chat template where it has one, else `frame_template`."""
    return ChatTemplate() if tokenizer.chat_template else frame_template(tokenizer)


def frame_template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """An instruction frame between the tokenizer's begin and end tokens, where it has them."""
    begin, end = tokenizer.bos_token or "", tokenizer.eos_token or ""
    return Template(f"{begin}### Instruction:\n{{prompt}}\n### Response:\n{{response}}{end}")


class _Frames:
    """Prompt and response of each row in a frame."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: Template, train_on: str
    ) -> None:
        self._tokenizer, self._template, self._train_on = tokenizer, template, train_on
        self._encoder = FrameEncoder(tokenizer)
        self._n_prefix = len(self._encoder.encode(template.prefix, [""], "")[0])
        self._n_middle = len(self._encoder.encode("", [""], template.middle)[0])

    def __call__(self, rows: Sequence[TextRow], names: Sequence[str]) -> list[Encoded]:
        for row, name in zip(rows, names, strict=True):
            _refuse_conversation(row, name)
        template = self._template
        prompts, responses = ([row[part] for row in rows] for part in ("prompt", "response"))
        contexts = self._encoder.encode(template.prefix, prompts, template.middle)
        answers = self._encoder.encode("", responses, template.suffix)
        special = self._encoder.spells_special
        return [
            _plain(self._tokenizer, row)
            if row.get("plain")
            else self._framed(context, answer, special(row["prompt"]) or special(row["response"]))
            for row, context, answer in zip(rows, contexts, answers, strict=True)
        ]

    def _framed(self, context: list[int], answer: list[int], special: bool) -> Encoded:
        ids = context + answer
        begin = 0 if self._train_on == "all" else len(context)
        prompt = (self._n_prefix, max(self._n_prefix, len(context) - self._n_middle))
        return Encoded(ids, [(begin, len(ids))] if begin < len(ids) else [], prompt, special)


def _refuse_conversation(row: TextRow, where: str) -> None:
    """A frame has room for one prompt and one response."""
    messages = row.get("messages") or []
    calls = row.get("tools") or any(message.get("tool_calls") for message in messages)
    if not calls and (not messages or is_pair(messages)):
        return
    roles = ", ".join(message["role"] for message in messages)
    tools = ", with tools" if calls else ""
    raise DataError(
        f"{where} is a conversation ({roles:.100}{tools}), and the template has one prompt and one "
        "response. Take a model whose tokenizer has a chat template (model.template=chat), or rows "
        "of one question and one answer."
    )


def _plain(tokenizer: PreTrainedTokenizerBase, row: TextRow) -> Encoded:
    """A text between begin and end token, with a loss on all of it."""
    encoder = FrameEncoder(tokenizer)
    begin, end = tokenizer.bos_token or "", tokenizer.eos_token or ""
    ids = encoder.encode(begin, [row["response"]], end)[0]
    return Encoded(ids, [(0, len(ids))], (0, 0), encoder.spells_special(row["response"]))
