"""Features of given batches from a model as it stands: queries of a window, or a frozen pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from influcoder_lightning.capture.gradients import CapturedRows, GradientCapture
from influcoder_lightning.capture.losses import LossFunction, response_tokens
from influcoder_lightning.capture.packing import has_blocks
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.errors import DataError

_PACKING_KEYS = ("segment_ids", "seq_idx", "cu_seqlens", "cu_seq_lens_q", "cu_seq_lens")


def feature_rows(
    capture: GradientCapture,
    batch: object,
    ids: list[int | str],
    labels: Tensor,
    loss_function: LossFunction,
    scale: float = 1.0,
) -> RowBatch:
    """Rows of one batch by a forward and backward pass that leaves every ``.grad`` alone.

    Args:
        capture: attached hooks.
        batch: handed to ``loss_function``.
        ids: B sample ids.
        labels: [B, T].
        loss_function: ``batch -> [B]`` mean response losses, differentiable.
        scale: the factor by which an fp16 training multiplies its loss, lest gradients underflow;
            tried smaller where it overflows. The rows are free of it.

    Raises:
        DataError: the loss is not one number per sample, or the batch is packed.
    """
    refuse_packed(batch)
    while True:
        captured, losses = _passes(capture, batch, len(ids), loss_function, scale)
        if scale <= 1 or bool(torch.isfinite(captured.squared_norm).all()):
            break
        scale = max(1.0, scale / 16)
    if scale != 1:
        captured.rescaled(torch.full((len(ids),), 1 / scale, dtype=torch.float64))
    return RowBatch(
        ids,
        captured.sketch.cpu(),
        captured.squared_norm.sqrt().cpu(),
        response_tokens(labels).cpu(),
        losses.detach().float().cpu(),
    )


def _passes(
    capture: GradientCapture,
    batch: object,
    size: int,
    loss_function: LossFunction,
    scale: float,
) -> tuple[CapturedRows, Tensor]:
    """Rows times ``scale``, and losses [B], of one forward and one backward pass."""
    capture.begin(size, own_backward=True)
    try:
        with torch.enable_grad():
            losses = loss_function(batch)
            if losses.shape != (size,):
                raise DataError(
                    f"`query_loss` returned shape {tuple(losses.shape)} for a batch of {size} "
                    "samples; it must return one mean response loss per sample."
                )
            capture.backward(losses.sum() * scale)
        return capture.finish(), losses
    finally:
        capture.cancel()


def refuse_packed(batch: object) -> None:
    """Raise ``DataError`` for batches that pack several samples into one row."""
    if not isinstance(batch, Mapping):
        return
    packed = next((key for key in _PACKING_KEYS if key in batch), None)
    positions, mask = batch.get("position_ids"), batch.get("attention_mask")
    square = isinstance(mask, Tensor) and mask.dim() == 4
    if packed is None and isinstance(mask, Tensor) and square and has_blocks(mask):
        packed = "a 4-D attention_mask of several blocks"
    if packed is None and isinstance(positions, Tensor) and positions.dim() == 2 and not square:
        attended = torch.ones_like(positions) if mask is None else mask
        both = attended[:, 1:].bool() & attended[:, :-1].bool()
        if bool(((positions[:, 1:] <= positions[:, :-1]) & both).any()):
            packed = "position_ids that restart within a row"
    if packed is not None:
        raise DataError(
            f"the batch is packed ({packed}): several samples in one row are supported only in "
            "training, where `segment_ids` [batch, tokens] (0 padding, 1, 2, ... the samples of a "
            "row) tells them apart. Use one sample per row."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; every submodule's own mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
