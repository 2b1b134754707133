"""One micro-batch of a training step: from the batch to rows in each sample's own loss unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.features import refuse_packed
from influcoder_lightning.capture.gradients import CapturedRows
from influcoder_lightning.capture.losses import LossReduction, response_tokens, sample_weights
from influcoder_lightning.capture.rows import RowBatch, UpdateRows
from influcoder_lightning.data.rows import TextRow
from influcoder_lightning.errors import DataError


@dataclass
class MicroBatch:
    """What must be known of a batch before its backward pass.

    Attributes:
        batch: labels of S samples, and where they lie in a packed batch.
        ids: S sample ids.
        weights: [S] float64, the weight of each sample's loss in the training loss.
        loss_scale: factor on the training loss when it was run backward (accumulation, AMP).
        share: of this micro-batch's training loss in that of its step; processes average their
            gradients, so that each has its part, too.
        loss: the training loss that was run backward, or None before that.
    """

    batch: TokenBatch
    ids: list[int | str]
    weights: Tensor
    loss_scale: float = 1.0
    share: float = 1.0
    loss: float | None = None

    @classmethod
    def of(cls, batch: TokenBatch, reduction: LossReduction) -> MicroBatch:
        """What must be known of a training batch.

        Raises:
            DataError: no ids, ids that do not match the rows or segments, packed rows without
                `segment_ids`, or no response token at all.
        """
        if batch.segments is None:
            refuse_packed(batch.fields)
        ids, n_tokens = batch.ids(), response_tokens(batch.labels)
        if not bool(n_tokens.any()):
            raise DataError(
                f"a batch of {len(ids)} samples has no response token (all labels are -100 after "
                f"the causal shift); first ids: {ids[:5]}. Its loss is undefined: drop these "
                "samples or shorten their prompts."
            )
        weights = sample_weights(n_tokens, reduction, batch.source)
        return cls(batch, ids, weights)

    def beyond(self, n_rows: int | None) -> Tensor:
        """[S] bool: samples that lie behind the first ``n_rows`` rows of the batch (None: none)."""
        rows = torch.arange(len(self.ids))
        segments = self.batch.segments
        if segments is not None:
            rows = segments.index[:, 0].cpu() // segments.segment_ids.shape[1]
        return rows >= n_rows if n_rows is not None else torch.zeros(len(rows), dtype=torch.bool)

    def usable(self, n_rows: int | None) -> Tensor:
        """[S] bool: samples with a response and a weight, among the first ``n_rows`` rows."""
        n_tokens = response_tokens(self.batch.labels)
        return ((n_tokens > 0) & (self.weights != 0)).cpu() & ~self.beyond(n_rows)

    def unit(self) -> Tensor:
        """[S] float64 factors that undo the loss's weights, accumulation and AMP scale.

        A sample of weight 0 has no gradient to rescale: 0.
        """
        return torch.where(self.weights == 0, 0.0, 1 / (self.weights * self.loss_scale))

    def rows(self, captured: CapturedRows, losses: Tensor, texts: list[TextRow] | None) -> RowBatch:
        """Rows in the unit of each sample's own loss, see `unit`."""
        rows, update = captured.rescaled(self.unit()), None
        columns = {
            "weight": self.weights * self.share,
            "n_prompt_tokens": self.batch.prompt_tokens(),
        }
        if captured.update is not None:
            # The optimizer would move on without this sample, but not because of it.
            found = captured.update.rescaled((self.weights != 0).double())
            update = UpdateRows(found.sketch.cpu(), found.squared_norm.sqrt().cpu())
        return RowBatch(
            self.ids,
            rows.sketch.cpu(),
            rows.squared_norm.sqrt().cpu(),
            response_tokens(self.batch.labels).cpu(),
            losses,
            texts,
            update,
            {name: values.cpu() for name, values in columns.items()},
        )

    def expected_loss(self, losses: Tensor) -> float | None:
        """The training loss that ``weights`` imply; None where a sample's loss is unknown."""
        weights = self.weights.cpu()
        if not bool((torch.isfinite(losses) | (weights == 0)).all()):
            return None
        return float((weights * losses.nan_to_num().double()).sum())
