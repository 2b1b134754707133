"""The first rows of a pass without training, held against the same samples by themselves."""

from __future__ import annotations

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.diagnosis import check_rows
from influcoder_lightning.capture.forward import SampleLosses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.random_streams import streams_kept


def check_alone(
    capture: GradientCapture, losses: SampleLosses, batch: TokenBatch, rows: RowBatch, n: int
) -> None:
    """Hold ``n`` samples by themselves against the rows of their batch, and say how close.

    Raises:
        CaptureError: they differ, see `check_rows`.
    """
    if n:
        with streams_kept():
            line = check_rows(capture, losses, batch, rows, n)
        rank_zero_info(f"influcoder: self-check: {line}")
