"""Conversations through the tokenizer's own chat template: its tokens, and which have a loss.

Token ids are those of ``tokenizer.apply_chat_template``. Text of a row that spells a special token
stays text: there the rendering is cut at the template's own special tokens, and what lies between
is encoded with ``split_special_tokens=True``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from influcoder_lightning.data.conversation import Message, messages_of_row
from influcoder_lightning.data.encoded import Encoded, Span
from influcoder_lightning.data.formats import TextRow
from influcoder_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
TRAIN_ON = ("assistant", "last", "all")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_MARK = chr(0xF8FE) * 2  # private use, and no character of any row begins like it
_STAND_IN = 0xF0000  # private use: no tokenizer and no template knows what stands there


@dataclass(frozen=True)
class ChatTemplate:
    """The tokenizer's own chat template."""

    text: str = "chat"


class ChatEncoder:
    """Encodes conversations.

    Args:
        tokenizer: with a chat template, and fast (it knows where its tokens stand in the text).
        train_on: ``assistant``: every turn of the assistant has a loss; ``last``: its last one;
            ``all``: every token. A turn of weight 0 has none.

    Raises:
        ConfigError: the tokenizer has no chat template, or is a slow one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, train_on: str = "assistant") -> None:
        if not tokenizer.chat_template:
            raise ConfigError(
                "the tokenizer has no chat template. Give model.template a frame with {prompt} "
                "and {response}, or a tokenizer that has one."
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                "the tokenizer is a slow one, which does not say where its tokens stand in the "
                "text. Load the fast one, or give model.template a frame."
            )
        self._tokenizer, self._train_on = tokenizer, train_on
        self._known = set[str]()  # of what a template may leave out: what this one does not
        self._marked = _MARKERS.search(str(tokenizer.chat_template)) is not None
        self._special = set(tokenizer.all_special_ids) | {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        names = [tokenizer.convert_ids_to_tokens(index) for index in self._special]
        longest = sorted(map(str, names), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest)) or r"(?!)")

    def encode(self, row: TextRow, where: str) -> Encoded:
        """One row.

        Args:
            row: with ``messages``, or prompt and response; ``tools`` where it has some.
            where: it stands, for messages.

        Raises:
            DataError: the template fails on it, or does not tell where a turn begins.
        """
        conversation = _Conversation(self, row, where)
        self._refuse_what_is_left_out(conversation)
        text = conversation.text
        ids, places = self._tokens(text)
        turns = conversation.trained(self._marked_places(conversation, places))
        spelled = self._hidden(conversation)
        if spelled is not None:
            ids, places = spelled
        trained = [_covered(places, *span) for span in turns]
        cut = _covered(places, *conversation.prompt())
        return Encoded(ids, [span for span in trained if span], cut, spelled is not None)

    def render(self, messages: Sequence[Message], tools: Any) -> str:
        """Messages as the template writes them."""
        text = self._tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False)
        return str(text)

    def _refuse_what_is_left_out(self, conversation: _Conversation) -> None:
        """A template may pass over a role, tools or calls of tools without a word.

        Whether it does is looked at once for each of them.
        """
        for what, otherwise in conversation.without():
            if what in self._known:
                continue
            try:
                left_out = self.render(*otherwise) == conversation.text
            except Exception:  # it knows enough of them to fail without them
                left_out = False
            if left_out:
                raise DataError(
                    f"{conversation.where}: the chat template leaves out {what}, so that the model "
                    "would not see it. Take it out of the rows, or take a tokenizer whose "
                    "template has it."
                )
            self._known.add(what)

    def _tokens(self, text: str, **options: bool) -> tuple[list[int], list[Span]]:
        encoded = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False, **options
        )
        return list(encoded["input_ids"]), [tuple(place) for place in encoded["offset_mapping"]]

    def _marked_places(self, conversation: _Conversation, places: list[Span]) -> list[Span] | None:
        """Characters of each turn that the template marks; None where it marks none."""
        if not self._marked:
            return None
        encoded: Any = self._tokenizer.apply_chat_template(
            conversation.messages,
            tools=conversation.tools,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        mask = [0, *encoded["assistant_masks"], 0]
        edges = [i for i in range(len(mask) - 1) if mask[i] != mask[i + 1]]
        return [
            (places[a][0], places[b - 1][1]) for a, b in zip(edges[::2], edges[1::2], strict=True)
        ]

    def _hidden(self, conversation: _Conversation) -> tuple[list[int], list[Span]] | None:
        """Tokens and places where the row's text spells special tokens; None where none does."""
        stand_ins: dict[str, str] = {}
        marks: dict[str, str] = {}  # one for each token, however often a row spells it

        def hide(match: re.Match[str]) -> str:
            mark = marks.setdefault(match[0], chr(_STAND_IN + len(marks)))
            stand_ins[mark] = match[0]
            return mark

        def hidden(value: Any) -> Any:
            if isinstance(value, str):
                return self._spelled.sub(hide, value)
            if isinstance(value, list):
                return [hidden(item) for item in value]
            if isinstance(value, dict):
                return {name: hidden(item) for name, item in value.items()}
            return value

        messages = [
            {n: v if n == "role" else hidden(v) for n, v in message.items()}
            for message in conversation.messages
        ]
        tools = hidden(conversation.tools)
        if not stand_ins:
            return None
        text = self.render(messages, tools)
        if _restored(text, stand_ins) != conversation.text:
            raise DataError(
                f"{conversation.where}: its text spells special tokens "
                f"({', '.join(sorted(set(stand_ins.values()))):.100}), and the chat template "
                "treats them apart. Take them out of the row."
            )
        return self._spliced(text, stand_ins)

    def _spliced(self, text: str, stand_ins: dict[str, str]) -> tuple[list[int], list[Span]]:
        """The template's special tokens as such, and what lies between them as plain text."""
        ids, places = self._tokens(text)
        found: tuple[list[int], list[Span]] = ([], [])
        begin = shift = 0
        ends = [i for i, index in enumerate(ids) if index in self._special] + [len(ids)]
        for end in ends:
            start = places[begin - 1][1] if begin else 0
            stop = places[end][0] if end < len(ids) else len(text)
            piece = text[start:stop]
            plain = _restored(piece, stand_ins)
            if plain == piece:
                part, spans = ids[begin:end], places[begin:end]
                moved = [(a + shift, b + shift) for a, b in spans]
            else:
                part, spans = self._tokens(plain, split_special_tokens=True)
                moved = [(a + start + shift, b + start + shift) for a, b in spans]
            found[0].extend(part)
            found[1].extend(moved)
            shift += len(plain) - len(piece)
            if end < len(ids):
                found[0].append(ids[end])
                found[1].append((places[end][0] + shift, places[end][1] + shift))
            begin = end + 1
        return found


class _Conversation:
    """One row, rendered; and where in the rendering its turns stand."""

    def __init__(self, encoder: ChatEncoder, row: TextRow, where: str) -> None:
        self.messages, self.tools, self.where = messages_of_row(row), row.get("tools"), where
        self._encoder = encoder
        self.text = self._render(self.messages)

    def without(self) -> Iterator[tuple[str, tuple[list[Message], Any]]]:
        """What may be left out, and the messages and tools as they are without its content."""
        if self.tools:
            yield "tools", (self.messages, None)
        calling = [m for m in self.messages if m.get("tool_calls")]
        if calling:
            yield "calls of tools", (self._changed(calling, tool_calls=None), self.tools)
        if several := [m for m in calling if len(m["tool_calls"]) > 1]:
            first = several[0]["tool_calls"][:-1]
            yield "calls behind the first", (self._changed(several, tool_calls=first), self.tools)
        if speaking := [m for m in calling if m["content"].strip()]:
            yield "what is said beside a call", (self._changed(speaking, content=""), self.tools)
        for name in _REASONING:
            if any(message.get(name) for message in self.messages):
                yield name, (self._changed(self.messages, **{name: None}), self.tools)
        for role in ("system", "developer", "tool"):
            said = [m["role"] == role and bool(m["content"].strip()) for m in self.messages]
            if any(said):
                other = [
                    {**m, "content": f"{m['content']}x"} if own else m
                    for m, own in zip(self.messages, said, strict=True)
                ]
                yield f"what the {role} says", (other, self.tools)

    def _changed(self, some: Sequence[Message], **fields: Any) -> list[Message]:
        """The messages, some of them with other fields; None: without them."""
        found = []
        for message in self.messages:
            if any(message is one for one in some):
                message = {**message, **fields}
                message = {n: v for n, v in message.items() if v is not None or n not in fields}
            found.append(message)
        return found

    def trained(self, marked: Sequence[Span] | None) -> list[Span]:
        """Characters (from, to) of what has a loss; ``marked``: the turns, where they are known."""
        if self._encoder._train_on == "all":
            return self._all_but_silent()
        turns = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        if self._encoder._train_on == "last":
            turns = turns[-1:]
        turns = [i for i in turns if self.messages[i].get("weight", 1) != 0]
        if marked is None:
            return [self._turn(i) for i in turns]
        said = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        if len(marked) != len(said):
            raise DataError(
                f"{self.where}: the chat template marks {len(marked)} turns as generated, and the "
                f"row has {len(said)} of the assistant."
            )
        return [span for i, span in zip(said, marked, strict=True) if i in turns]

    def _all_but_silent(self) -> list[Span]:
        """All characters but those of turns of weight 0."""
        spans, at = list[Span](), 0
        for index, message in enumerate(self.messages):
            if message["role"] == "assistant" and message.get("weight", 1) == 0:
                start, stop = self._turn(index)
                spans.append((at, start))
                at = stop
        return [*spans, (at, len(self.text))]

    def prompt(self) -> Span:
        """Characters of the first turn that is the user's, of which tokens may be cut."""
        for index, message in enumerate(self.messages):
            if message["role"] != "user" or not message["content"].strip():
                continue
            other = [*self.messages]
            other[index] = {**message, "content": _MARK}
            try:
                rendered = self._render(other)
            except DataError:  # a template that looks into what the user says
                break
            start = _alike(self.text, rendered)
            behind = _alike(self.text[start:][::-1], rendered[start:][::-1])
            stop = len(self.text) - behind
            return (start, stop) if start < stop else (0, 0)
        return 0, 0

    def _turn(self, index: int) -> Span:
        """Where a turn of the assistant stands, from behind its header to its end token.

        The header is what two turns have in common that say something else.
        """
        before = self._shared(self._render(self.messages[:index])) if index else 0
        other = [*self.messages[:index], {"role": "assistant", "content": _MARK}]
        start = _alike(self.text, self._render(other))
        last = index + 1 == len(self.messages)
        stop = len(self.text) if last else self._shared(self._render(self.messages[: index + 1]))
        if before < 0 or not before <= start <= stop:
            raise DataError(
                f"{self.where}: the chat template writes earlier turns in another way once later "
                f"ones follow, so that it does not tell where turn {index} stands. Train on the "
                "last turn alone (data.train_on=last), give each turn a row of its own, or mark "
                "the turns in the template ({% generation %})."
            )
        return start, stop

    def _shared(self, begun: str) -> int:
        """How far the rendering goes on as that of some first messages; -1: it does not.

        A template may end every rendering with special tokens of its own.
        """
        if self.text.startswith(begun):
            return len(begun)
        tokens = self._encoder._tokens
        (ids, places), (own, _) = tokens(begun), tokens(self.text)
        n = next((i for i, (x, y) in enumerate(zip(ids, own, strict=False)) if x != y), len(own))
        if not self._encoder._special.issuperset(ids[n:]):
            return -1
        return places[n - 1][1] if n else 0

    def _render(self, messages: Sequence[Message]) -> str:
        try:
            return self._encoder.render(messages, self.tools)
        except Exception as error:  # whatever the template raises
            roles = ", ".join(message["role"] for message in messages)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.where}: the tokenizer's chat template fails on it ({reason:.200}; roles: "
                f"{roles:.100})."
            ) from error


def _covered(places: Sequence[Span], start: int, stop: int) -> Span:
    """From, to: the tokens that have a character between two places."""
    inside = [
        i
        for i, (a, b) in enumerate(places)
        if (b > start and a < stop) or (a == b and start <= a < stop)
    ]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _alike(left: str, right: str) -> int:
    """Characters that two texts begin with alike."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


def _restored(text: str, stand_ins: dict[str, str]) -> str:
    return "".join(stand_ins.get(mark, mark) for mark in text) if stand_ins else text
