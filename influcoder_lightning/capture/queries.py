"""Features of the query samples, and the text of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from influcoder_lightning.capture.batches import BatchReader, TokenBatch
from influcoder_lightning.capture.features import feature_rows, refuse_packed
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.losses import IGNORE_INDEX, LossFunction
from influcoder_lightning.capture.query_order import query_keys
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.capture.untouched import untouched
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.devices import moved
from influcoder_lightning.errors import DataError
from influcoder_lightning.random_streams import streams_kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def query_features(
    capture: GradientCapture,
    model: nn.Module,
    batches: Iterable[object],
    loss_function: LossFunction,
    *,
    reader: BatchReader,
    tokenizer: PreTrainedTokenizerBase | None,
    scale: float = 1.0,
    first: Callable[[TokenBatch, RowBatch], None] = lambda batch, rows: None,
) -> RowBatch:
    """Features of all query samples under the model as it stands, in eval mode.

    Modes, buffers, ``.grad`` and random states are afterwards as before.

    Args:
        capture: attached hooks.
        model: the whole module that the loss may use.
        batches: of queries.
        loss_function: ``batch -> [B]``, mean response losses.
        reader: reads the batches.
        tokenizer: for the queries' texts; may be None.
        scale: see `feature_rows`.
        first: gets the first batch and its rows.

    Raises:
        DataError: no query sample, or one without a response token or a finite gradient.
    """
    device = next(model.parameters()).device
    parts: list[RowBatch] = []
    with streams_kept(), untouched(model):
        for batch in batches:
            batch = moved(batch, device)
            read = reader.read(batch)
            refuse_packed(read.fields)
            ids = _query_ids(read, sum(map(len, parts)))
            rows = feature_rows(capture, batch, ids, read.labels, loss_function, scale)
            usable = (rows.n_tokens > 0) & torch.isfinite(rows.norm)
            if not bool(usable.all()):
                raise DataError(
                    "query samples without a response token or with a non-finite gradient: "
                    f"{rows.select(~usable).ids[:5]}. Drop or shorten them."
                )
            if not parts:
                first(read, rows)
            rows.texts = batch_texts(read, tokenizer)
            rows.keys, rows.carries_ids = query_keys(read), read.carries_ids
            parts.append(rows)
    if not parts:
        raise DataError("`query_dataloader` is empty: it must hold at least one batch of queries.")
    return RowBatch.joined(parts)


def batch_texts(
    batch: TokenBatch, tokenizer: PreTrainedTokenizerBase | None
) -> list[TextRow] | None:
    """``{"prompt", "response"}`` of each sample: the batch's own, else decoded; None if unknown.

    Args:
        batch: may be packed.
        tokenizer: may be None.
    """
    fields = _text_fields(batch)
    if "prompt" in fields and "response" in fields:
        return [
            {"prompt": p, "response": r}
            for p, r in zip(fields["prompt"], fields["response"], strict=True)
        ]
    tokens = fields.get("input_ids")
    if tokenizer is None or tokens is None:
        return None
    if batch.segments is not None:
        tokens, attended = batch.segments.unpacked(tokens), batch.segments.valid
    else:
        mask = fields.get("attention_mask")
        attended = torch.ones_like(tokens) if mask is None or mask.dim() != 2 else mask
    response = batch.labels != IGNORE_INDEX
    prompt = attended.bool() & ~response[:, : tokens.shape[1]]
    prompts, responses = (
        tokenizer.batch_decode(
            [row[keep].tolist() for row, keep in zip(values, kept, strict=True)],
            skip_special_tokens=True,
        )
        for values, kept in ((tokens, prompt), (batch.labels, response))
    )
    return [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]


def _text_fields(batch: TokenBatch) -> dict[str | int, Any]:
    """The batch's fields; texts may also lie beside what `read_batch` gives to the model."""
    source = batch.source
    if isinstance(source, Mapping) and "prompt" in source and "response" in source:
        return {"prompt": source["prompt"], "response": source["response"], **batch.fields}
    return dict(batch.fields)


def _query_ids(batch: TokenBatch, start: int) -> list[int | str]:
    """The ids a query batch carries, else positions from ``start`` on."""
    return batch.ids() if batch.carries_ids else list(range(start, start + len(batch)))
