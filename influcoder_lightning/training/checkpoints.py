"""The Trainer's checkpoints carry the valuation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from influcoder_lightning.training.failure import FailurePolicy, valuing


class Checkpointed(FailurePolicy):
    """A callback whose valuation goes on with ``trainer.fit(..., ckpt_path=...)``.

    The checkpoint holds a small pointer; towers, buffers and sketches lie beside the store.
    """

    def __init__(self) -> None:
        super().__init__()
        self._resume: dict[str, Any] | None = None
        self._pointer: dict[str, Any] | None = None
        self._boundary = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make every row before this checkpoint durable, and let it point to what it needs."""
        self._save_state(trainer)
        if self._pointer is not None and self._pointer["step"] == trainer.global_step:
            checkpoint["callbacks"][self.state_key] = self._pointer

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where the checkpoint's valuation is; the training starts from there."""
        self._resume = state_dict

    def _progress(self) -> dict[str, Any]:
        """What the callback itself must know to go on, as JSON values."""
        raise NotImplementedError

    @valuing
    def _save_state(self, trainer: Trainer) -> None:
        valuation = self._valuation
        if valuation is None or self._temporary is not None:
            return
        if not self._boundary:
            rank_zero_warn(
                "influcoder: a checkpoint between the micro-batches of an optimizer step: "
                "Lightning does not keep their gradients, so a run resumed from it differs from "
                "this one."
            )
        moment = [trainer.global_step, valuation.n_rows, valuation.recorder.n_windows]
        if self._pointer is None or self._pointer["moment"] != moment:
            self._pointer = {
                **valuation.save_state(self._progress()),
                "folder": str(valuation.folder),
                "step": trainer.global_step,
                "moment": moment,
            }
