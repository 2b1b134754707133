"""What an fp16 GradScaler does to the loss and to the optimizer's steps."""

from __future__ import annotations

from lightning.pytorch import Trainer

from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.valuation.recorder import Recorder

SKIPPED = "in a step that the GradScaler skipped, so that the weights did not move"


def loss_scale(trainer: Trainer) -> float:
    """The factor by which the precision plugin multiplies the loss; 1 without a scaler."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


class StepRows:
    """Rows of an optimizer step, held back while a GradScaler may still skip it.

    Without a scaler they go on at once. A skipped step lowers the scale.
    """

    def __init__(self) -> None:
        self._held: list[tuple[RowBatch, int, int, float]] = []
        self._scale = 1.0

    def begin(self, scale: float) -> None:
        """The loss of a micro-batch is multiplied by ``scale``."""
        self._scale = scale

    def add(
        self, trainer: Trainer, recorder: Recorder, rows: RowBatch, step: int, rate: float
    ) -> None:
        """Rows of one micro-batch, for `Recorder.add`."""
        self._held.append((rows, trainer.current_epoch, step, rate))
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            self.release(recorder)

    def end_step(self, trainer: Trainer, recorder: Recorder) -> None:
        """The optimizer has stepped, or was kept from it."""
        if self._held and loss_scale(trainer) < self._scale:
            for rows, *_ in self._held:
                recorder.keep_out(SKIPPED, rows.ids)
            self._held.clear()
        self.release(recorder)

    def release(self, recorder: Recorder) -> None:
        """Hand on what is held: no step comes any more that could be skipped."""
        held, self._held = self._held, []
        for rows, epoch, step, rate in held:
            recorder.add(rows, epoch, step, rate)
