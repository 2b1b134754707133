"""One micro-batch of a training step: from the batch to rows in each sample's own loss unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from influcoder_lightning.capture.features import refuse_packed
from influcoder_lightning.capture.gradients import CapturedRows
from influcoder_lightning.capture.losses import LossReduction, response_tokens, sample_weights
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.capture.rows import RowBatch, Text, UpdateRows
from influcoder_lightning.data.sample_ids import batch_labels, batch_sample_ids
from influcoder_lightning.errors import DataError


@dataclass
class MicroBatch:
    """What must be known of a batch before its backward pass.

    Attributes:
        ids: S sample ids.
        labels: [S, L], one row per sample, also where the batch is packed.
        weights: [S] float64, the weight of each sample's loss in the training loss.
        loss_scale: factor on the training loss when it was run backward (accumulation, AMP).
        loss: the training loss that was run backward, or None before that.
        segments: where the samples lie in a packed batch, else None.
    """

    ids: list[int | str]
    labels: Tensor
    weights: Tensor
    loss_scale: float = 1.0
    loss: float | None = None
    segments: Segments | None = None

    @classmethod
    def read(
        cls, batch: Any, *, sample_id_key: str, labels_key: str | int, reduction: LossReduction
    ) -> MicroBatch:
        """Read a training batch.

        Raises:
            DataError: no ids, ids that do not match the rows or segments, no labels, packed rows
                without `segment_ids`, or no response token at all.
        """
        labels = batch_labels(batch, labels_key)
        segments = Segments.read(batch)
        if segments is None:
            refuse_packed(batch)
        else:
            labels = segments.labels(labels)
            batch = {**batch, sample_id_key: segments.flat_ids(batch.get(sample_id_key, ()))}
        ids = batch_sample_ids(batch, sample_id_key)
        if len(ids) != len(labels):
            raise DataError(
                f"the batch carries {len(ids)} sample ids but {len(labels)} rows: every row needs "
                "one id."
            )
        n_tokens = response_tokens(labels)
        if not bool(n_tokens.any()):
            raise DataError(
                f"a batch of {len(ids)} samples has no response token (all labels are -100 after "
                f"the causal shift); first ids: {ids[:5]}. Its loss is undefined: drop these "
                "samples or shorten their prompts."
            )
        return cls(ids, labels, sample_weights(n_tokens, reduction, batch), segments=segments)

    def beyond(self, n_rows: int | None) -> Tensor:
        """[S] bool: samples that lie behind the first ``n_rows`` rows of the batch (None: none)."""
        rows = torch.arange(len(self.ids))
        if self.segments is not None:
            rows = self.segments.index[:, 0].cpu() // self.segments.segment_ids.shape[1]
        return rows >= n_rows if n_rows is not None else torch.zeros(len(rows), dtype=torch.bool)

    def unit(self) -> Tensor:
        """[S] float64 factors that undo the loss's weights, accumulation and AMP scale.

        A sample of weight 0 has no gradient to rescale: 0.
        """
        return torch.where(self.weights == 0, 0.0, 1 / (self.weights * self.loss_scale))

    def rows(self, captured: CapturedRows, losses: Tensor, texts: list[Text] | None) -> RowBatch:
        """Rows in the unit of each sample's own loss, see `unit`."""
        rows, update = captured.rescaled(self.unit()), None
        if captured.update is not None:
            # The optimizer would move on without this sample, but not because of it.
            found = captured.update.rescaled((self.weights != 0).double())
            update = UpdateRows(found.sketch.cpu(), found.squared_norm.sqrt().cpu())
        return RowBatch(
            self.ids,
            rows.sketch.cpu(),
            rows.squared_norm.sqrt().cpu(),
            response_tokens(self.labels).cpu(),
            losses,
            texts,
            update,
        )

    def expected_loss(self, losses: Tensor) -> float | None:
        """The training loss that ``weights`` imply; None where a sample's loss is unknown."""
        weights = self.weights.cpu()
        if not bool((torch.isfinite(losses) | (weights == 0)).all()):
            return None
        return float((weights * losses.nan_to_num().double()).sum())
