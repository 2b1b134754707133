"""Prompt and response to tokens, with loss on the response and the end token only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from influcoder_lightning.data.rows import TextRow, row_ids
from influcoder_lightning.data.sample_ids import ids_for_batch
from influcoder_lightning.data.template import FrameEncoder, Template
from influcoder_lightning.errors import ConfigError, DataError
from influcoder_lightning.ids import SampleId, checked_id, checked_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class TruncationReport:
    """What was cut so that the samples fit ``max_length`` tokens.

    ``n_response_tokens`` counts the tokens that have a loss (after the causal shift), and
    ``n_without_response`` the rows that have none.
    """

    n_rows: int
    n_prompts_truncated: int
    n_responses_truncated: int
    n_without_response: int
    n_response_tokens: int
    max_length: int

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
    """Map-style dataset of tokenised rows; ``report`` says what was truncated."""

    def __init__(
        self,
        rows: Sequence[TextRow],
        ids: Sequence[SampleId],
        contexts: Sequence[list[int]],
        responses: Sequence[list[int]],
        report: TruncationReport,
    ) -> None:
        self.sample_ids = list(ids)
        self.report = report
        self._rows, self._contexts, self._responses = rows, contexts, responses

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TokenizedRow:
        context, response = self._contexts[index], self._responses[index]
        input_ids = torch.tensor(context + response, dtype=torch.int64)
        labels = input_ids.clone()
        labels[: len(context)] = IGNORED
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
    template: Template | str,
    max_length: int,
    ids: Sequence[SampleId] | None = None,
) -> TokenizedDataset:
    """Tokenise rows so that the response always survives.

    Prefix, prompt and middle are tokenised as one text, response and suffix as another. A response
    longer than half of ``max_length`` is cut at its end, and loses the end token with it. The
    prompt loses its head until everything fits; the template's own text stays. Special tokens that
    rows spell out (``"</s>"``) stay text.

    Args:
        rows: As from ``load_rows``.
        tokenizer: A Hugging Face tokenizer.
        template: A :class:`Template` or its text.
        max_length: Tokens per sample, at most.
        ids: One id per row. Default: ``row_ids(rows)``.

    Raises:
        DataError: When no row keeps a response token.
        ConfigError: When ``max_length`` is too small for the template.
    """
    if not rows:
        raise DataError("no rows to tokenise.")
    if isinstance(template, str):
        template = Template(template)
    ids = row_ids(rows) if ids is None else [checked_id(value, "ids") for value in ids]
    if len(ids) != len(rows):
        raise DataError(f"{len(ids)} ids for {len(rows)} rows. Give one id per row.")

    encoder = FrameEncoder(tokenizer)
    responses = encoder.encode("", [row["response"] for row in rows], template.suffix)
    contexts = encoder.encode(template.prefix, [row["prompt"] for row in rows], template.middle)
    prefix = encoder.encode(template.prefix, [""], "")[0]
    n_frame = len(prefix) + len(encoder.encode("", [""], template.middle)[0])

    limit = max_length // 2
    n_responses = sum(len(response) > limit for response in responses)
    responses = [response[:limit] for response in responses]
    # The first token of a sample has nothing before it that could predict it.
    counts = [len(r) if c else max(len(r) - 1, 0) for c, r in zip(contexts, responses, strict=True)]
    if not sum(counts):
        raise DataError(
            f"all responses truncated away: no row keeps a response token at max_length="
            f"{max_length}. Raise max_length, or check that the responses are not empty."
        )
    n_prompts = 0
    for index, (context, response) in enumerate(zip(contexts, responses, strict=True)):
        room = max_length - len(response)
        if len(context) <= room:
            continue
        if room < n_frame:
            raise ConfigError(
                f"max_length={max_length} leaves {room} tokens for the context of row {index}, "
                f"and the template alone needs {n_frame}. Raise max_length or shorten the template."
            )
        n_prompts += 1
        contexts[index] = prefix + context[len(context) - (room - len(prefix)) :]
    report = TruncationReport(
        n_rows=len(rows),
        n_prompts_truncated=n_prompts,
        n_responses_truncated=n_responses,
        n_without_response=sum(count == 0 for count in counts),
        n_response_tokens=sum(counts),
        max_length=max_length,
    )
    return TokenizedDataset(rows, ids, contexts, responses, report)
