"""Rows to tokens, with a loss on what the assistant says."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from influcoder_lightning.data.chat import TRAIN_ON, ChatTemplate
from influcoder_lightning.data.encoded import Cutter
from influcoder_lightning.data.encoders import encoder_of
from influcoder_lightning.data.formats import TextRow
from influcoder_lightning.data.packed import PackedRows
from influcoder_lightning.data.rows import row_ids
from influcoder_lightning.data.sample_ids import ids_for_batch
from influcoder_lightning.data.template import Template
from influcoder_lightning.errors import ConfigError, DataError
from influcoder_lightning.ids import SampleId, checked_id, checked_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
_AT_A_TIME = 4096  # rows whose tokens are lists at one time


@dataclass(frozen=True)
class TruncationReport:
    """What became of the rows, so that they fit ``max_length`` tokens.

    ``n_response_tokens`` counts the tokens that have a loss (after the causal shift), and
    ``n_without_response`` the rows that have none, ``n_dropped`` those of them that were too long.
    ``n_spelling_special`` counts rows whose text spells a special token, which was kept as text.
    """

    n_rows: int
    n_prompts_truncated: int
    n_responses_truncated: int
    n_without_response: int
    n_response_tokens: int
    max_length: int
    n_dropped: int = 0
    n_spelling_special: int = 0

    def words(self) -> str:
        """What was cut, for a sentence."""
        cut = {
            "prompts lost their head": self.n_prompts_truncated,
            "rows their end": self.n_responses_truncated,
            "rows were left out": self.n_dropped,
        }
        what = ", ".join(f"{n:,} {words}" for words, n in cut.items() if n) or "nothing was cut"
        return f"to fit {self.max_length:,} tokens, {what}"

    def summary(self) -> str:
        """One sentence for the log."""
        empty = (
            f", and {self.n_without_response:,} rows have no response token"
            if self.n_without_response
            else ""
        )
        return (
            f"{self.n_rows:,} rows with {self.n_response_tokens:,} response tokens fit "
            f"{self.max_length:,} tokens each; {self.n_prompts_truncated:,} prompts lost their "
            f"head and {self.n_responses_truncated:,} responses their end{empty}."
        )


class TokenizedRow(TypedDict):
    """A tokenised row: int64 [T] each, -100 on the context of ``labels``; and the raw texts."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    sample_id: SampleId
    prompt: str
    response: str


class TokenizedDataset(Dataset[TokenizedRow]):
    """Map-style dataset of tokenised rows; ``report`` says what was truncated.

    ``n_trained``: tokens of each row that have a loss.
    """

    def __init__(
        self,
        rows: Sequence[TextRow],
        ids: Sequence[SampleId],
        encoded: PackedRows,
        n_trained: Sequence[int],
        report: TruncationReport,
    ) -> None:
        self.sample_ids = list(ids)
        self.report = report
        self.n_trained = n_trained
        self._rows, self._encoded = rows, encoded

    def __len__(self) -> int:
        return len(self._rows)

    def largest_id(self) -> int:
        """Of all tokens."""
        return self._encoded.largest_id()

    def length(self, index: int) -> int:
        """Tokens of a row."""
        return self._encoded.length(index)

    def __getitem__(self, index: int) -> TokenizedRow:
        input_ids = torch.from_numpy(self._encoded.tokens(index))
        labels = torch.full_like(input_ids, IGNORED)
        for start, stop in self._encoded.trained(index):
            labels[start:stop] = input_ids[start:stop]
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "labels": labels,
            "sample_id": self.sample_ids[index],
            "prompt": self._rows[index]["prompt"],
            "response": self._rows[index]["response"],
        }


@dataclass(frozen=True)
class SampleCollator:
    """Pads tokenised samples to one batch; made by :func:`collate_samples`."""

    pad_token_id: int
    padding_side: str = "right"

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Tensors int64 [B, T]; ``sample_id`` int64 [B] or B strings; texts as lists."""
        width = max(len(sample["input_ids"]) for sample in samples)
        fills = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        batch: dict[str, Any] = {}
        for key, fill in fills.items():
            batch[key] = torch.full((len(samples), width), fill, dtype=torch.int64)
            for row, sample in zip(batch[key], samples, strict=True):
                length = len(sample[key])
                row[slice(width - length, None) if self._left else slice(length)] = sample[key]
        batch["sample_id"] = ids_for_batch(checked_ids([s["sample_id"] for s in samples]))
        for key in ("prompt", "response"):
            batch[key] = [sample[key] for sample in samples]
        return batch

    @property
    def _left(self) -> bool:
        return self.padding_side == "left"


def collate_samples(pad_token_id: int | None, padding_side: str = "right") -> SampleCollator:
    """Collate function for :class:`TokenizedDataset` items.

    Raises:
        ConfigError: Without a pad token, or for another padding side than left or right.
    """
    if pad_token_id is None:
        raise ConfigError(
            "the tokenizer has no pad token. Give another one, such as tokenizer.eos_token_id; "
            "padding is masked, so that it has no effect."
        )
    if padding_side not in ("left", "right"):
        raise ConfigError(f"padding_side must be 'left' or 'right', not {padding_side!r}.")
    return SampleCollator(int(pad_token_id), padding_side)


def tokenize_rows(
    rows: Sequence[TextRow],
    tokenizer: PreTrainedTokenizerBase,
    template: Template | ChatTemplate | str,
    max_length: int,
    ids: Sequence[SampleId] | None = None,
    *,
    train_on: str = "assistant",
    too_long: str = "cut_prompt",
) -> TokenizedDataset:
    """Tokenise rows, with a loss on what the assistant says and on the end token behind it.

    With a `Template`, prefix, prompt and middle are tokenised as one text, response and suffix as
    another. With ``"chat"``, ids are those of ``tokenizer.apply_chat_template``. Special tokens
    that rows spell out (``"</s>"``) stay text. Nothing is cut of a row that fits ``max_length``.

    Args:
        rows: As from ``load_rows``.
        tokenizer: A Hugging Face tokenizer.
        template: A :class:`Template` or its text; ``"chat"``: the tokenizer's own chat template.
        max_length: Tokens of a whole row, at most.
        ids: One id per row. Default: ``row_ids(rows)``.
        train_on: Which turns of a conversation have a loss, see :class:`~.chat.ChatEncoder`.
        too_long: What is done with a longer row, see :class:`~.encoded.Cutter`.

    Raises:
        DataError: When no row keeps a response token, a row does not fit its template, or is too
            long where that is an error.
        ConfigError: For an unknown word, or a tokenizer without a chat template.
    """
    if not rows:
        raise DataError("no rows to tokenise.")
    if train_on not in TRAIN_ON:
        raise ConfigError(f"data.train_on={train_on}: choose one of {', '.join(TRAIN_ON)}.")
    ids = row_ids(rows) if ids is None else [checked_id(value, "ids") for value in ids]
    if len(ids) != len(rows):
        raise DataError(f"{len(ids)} ids for {len(rows)} rows. Give one id per row.")
    encode = encoder_of(tokenizer, template, train_on)
    cutter = Cutter(max_length, too_long)
    packed, counts, n_spelling = PackedRows(), array("i"), 0
    for begin in range(0, len(rows), _AT_A_TIME):
        part = slice(begin, begin + _AT_A_TIME)
        names = ids[part]
        found = encode(rows[part], [f"row {name}" for name in names])
        for row, name in zip(found, names, strict=True):
            row = cutter.fit(row, name)
            packed.add(row)
            counts.append(row.n_trained())
            n_spelling += row.spells_special
    cutter.check(len(rows))
    if not any(counts):
        raise DataError(
            f"all responses truncated away: no row keeps a response token at max_length="
            f"{max_length}. Raise max_length, or check that the responses are not empty and that "
            "not all turns have weight 0."
        )
    report = TruncationReport(
        n_rows=len(rows),
        n_prompts_truncated=cutter.counts["prompts"],
        n_responses_truncated=cutter.counts["responses"],
        n_without_response=sum(count == 0 for count in counts),
        n_response_tokens=sum(counts),
        max_length=max_length,
        n_dropped=cutter.counts["dropped"],
        n_spelling_special=n_spelling,
    )
    return TokenizedDataset(rows, ids, packed, counts, report)
