"""The frame around prompt and response, and its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from influcoder_lightning.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROMPT, _RESPONSE = "{prompt}", "{response}"


@dataclass(frozen=True)
class Template:
    """The frame around a row: prefix, prompt, middle, response, suffix.

    ``text`` holds ``{prompt}`` and then ``{response}``, each once. Other braces are plain text, in
    the frame and in the rows.

    Raises:
        ConfigError: When a placeholder is missing, doubled, or in the wrong order.
    """

    text: str

    def __post_init__(self) -> None:
        for slot in (_PROMPT, _RESPONSE):
            if self.text.count(slot) != 1:
                raise ConfigError(
                    f"the template needs {slot} exactly once and has it "
                    f"{self.text.count(slot)} times: {self.text!r}."
                )
        if self.text.index(_RESPONSE) < self.text.index(_PROMPT):
            raise ConfigError(f"the template needs {_PROMPT} before {_RESPONSE}: {self.text!r}.")

    @property
    def prefix(self) -> str:
        """What comes before the prompt; it survives truncation."""
        return self.text.partition(_PROMPT)[0]

    @property
    def middle(self) -> str:
        """What comes between prompt and response."""
        return self.text.partition(_PROMPT)[2].partition(_RESPONSE)[0]

    @property
    def suffix(self) -> str:
        """What follows the response: the end token."""
        return self.text.partition(_RESPONSE)[2]

    def render(self, prompt: str, response: str) -> str:
        """The whole text of one row."""
        return f"{self.prefix}{prompt}{self.middle}{response}{self.suffix}"


class FrameEncoder:
    """Tokenises ``before + text + after``, where only the frame may hold special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = {
            str(token): index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special
        } | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        # Longest first, so that a token that starts with another one is found whole.
        longest = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(token) for token in longest))

    def encode(self, before: str, texts: Sequence[str], after: str) -> list[list[int]]:
        """Token ids of each framed text."""
        joined = [f"{before}{text}{after}" for text in texts]
        encoded = self._tokens(joined)
        for index, text in enumerate(texts):
            if self.spells_special(text, before, after):
                encoded[index] = self._apart(before, text, after)
        return encoded

    def spells_special(self, text: str, before: str = "", after: str = "") -> bool:
        """Whether the text holds a special token, alone or together with its frame."""
        return self._count(f"{before}{text}{after}") != self._count(before) + self._count(after)

    def _count(self, text: str) -> int:
        return len(self._pattern.findall(text)) if self._special else 0

    def _apart(self, before: str, text: str, after: str) -> list[int]:
        """As :meth:`encode` for one text, special tokens of the text being plain text."""
        *head, start = self._split(before)
        end, *tail = self._split(after)
        ids = self._frame(head)
        ids += self._tokens([f"{start}{text}{end}"], split_special_tokens=True)[0]
        return ids + self._frame(tail)

    def _frame(self, parts: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids += self._tokens([part])[0]
        return ids

    def _split(self, frame: str) -> list[str]:
        """Text, special token, text, ... ; text at both ends, possibly empty."""
        return re.split(f"({self._pattern.pattern})", frame) if self._special else [frame]

    def _tokens(self, texts: list[str], **options: bool) -> list[list[int]]:
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **options,
        )
        return [list(ids) for ids in encoded["input_ids"]]
