"""A tokenised row for people: its tokens one by one, those that have a loss between marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from influcoder_lightning.data.tokenization import IGNORED, TokenizedRow
from influcoder_lightning.printable import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEGIN, END = "[[", "]]"
_MOST = 160  # tokens that are shown of a row: its first and its last ones


def marked_tokens(row: TokenizedRow, tokenizer: PreTrainedTokenizerBase) -> str:
    """Tokens with a bar between them, ``[[`` and ``]]`` around those that have a loss.

    Of a long row the middle is left out, and the number of tokens stands there. Line breaks and
    other control characters are written as escapes.

    Example of what comes out: ``Say| hi|[[|Hi|</s>|]]``
    """
    ids, labels = row["input_ids"].tolist(), row["labels"].tolist()
    parts: list[str] = []
    inside = False
    for at, (token, label) in enumerate(zip(ids, labels, strict=True)):
        if (label != IGNORED) != inside:
            inside = not inside
            parts.append(BEGIN if inside else END)
        if len(ids) > _MOST and _MOST // 2 <= at < len(ids) - _MOST // 2:
            if at == _MOST // 2:
                parts.append(f" ... {len(ids) - _MOST:,} tokens ... ")
            continue
        text: Any = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        parts.append(printable(text.replace("\n", "\\n").replace("\t", "\\t")))
    return "|".join([*parts, *([END] if inside else [])])
