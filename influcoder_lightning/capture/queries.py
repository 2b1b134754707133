"""Features of the query samples, and the text of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from influcoder_lightning.capture.features import evaluating, feature_rows
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.losses import IGNORE_INDEX
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.capture.rows import RowBatch, Text
from influcoder_lightning.data.sample_ids import batch_labels, batch_sample_ids
from influcoder_lightning.errors import DataError


def query_features(
    capture: GradientCapture,
    model: nn.Module,
    batches: Iterable[Any],
    loss_function: Callable[[Any], Tensor],
    *,
    sample_id_key: str,
    labels_key: str | int,
    tokenizer: Any,
) -> RowBatch:
    """Features of all query samples under the model as it stands, in eval mode.

    Modes, ``.grad`` and random states are afterwards as before.

    Raises:
        DataError: no query sample, or one without a response token or a finite gradient.
    """
    device = next(model.parameters()).device
    parts: list[RowBatch] = []
    with isolate_rng(), evaluating(model):
        for batch in batches:
            batch = move_data_to_device(batch, device)
            labels = batch_labels(batch, labels_key)
            ids = _query_ids(batch, sample_id_key, len(labels), sum(map(len, parts)))
            rows = feature_rows(capture, batch, ids, labels, loss_function)
            usable = (rows.n_tokens > 0) & torch.isfinite(rows.norm)
            if not bool(usable.all()):
                raise DataError(
                    "query samples without a response token or with a non-finite gradient: "
                    f"{rows.select(~usable).ids[:5]}. Drop or shorten them."
                )
            rows.texts = batch_texts(batch, labels, tokenizer)
            parts.append(rows)
    if not parts:
        raise DataError("`query_dataloader` is empty: it must hold at least one batch of queries.")
    return RowBatch.joined(parts)


def batch_texts(batch: Any, labels: Tensor, tokenizer: Any) -> list[Text] | None:
    """``{"prompt", "response"}`` of each sample: the batch's own, else decoded; None if unknown.

    Args:
        batch: may be packed, see `Segments`.
        labels: [S, L], one row per sample.
        tokenizer: may be None.
    """
    if isinstance(batch, Mapping) and "prompt" in batch and "response" in batch:
        return [
            {"prompt": p, "response": r}
            for p, r in zip(batch["prompt"], batch["response"], strict=True)
        ]
    tokens = batch.get("input_ids") if isinstance(batch, Mapping) else batch[0]
    if tokenizer is None or tokens is None:
        return None
    segments = Segments.read(batch)
    if segments is not None:
        tokens, attended = segments.unpacked(tokens), segments.valid
    else:
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        attended = torch.ones_like(tokens) if mask is None or mask.dim() != 2 else mask
    response = labels != IGNORE_INDEX
    prompts, responses = (
        tokenizer.batch_decode(
            [row[keep].tolist() for row, keep in zip(tokens, kept, strict=True)],
            skip_special_tokens=True,
        )
        for kept in (attended.bool() & ~response, response)
    )
    return [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]


def _query_ids(batch: Any, key: str, size: int, start: int) -> list[int | str]:
    """The ids a query batch carries, else positions from ``start`` on."""
    carries = key in batch if isinstance(batch, Mapping) else hasattr(batch, "sample_ids")
    return batch_sample_ids(batch, key) if carries else list(range(start, start + size))
