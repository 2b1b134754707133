"""The Trainer's checkpoints carry the valuation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from influcoder_lightning.callback.failure import FailurePolicy, valuing
from influcoder_lightning.callback.place import Place, go_on, place_of, warn_of_loader
from influcoder_lightning.errors import StoreError
from influcoder_lightning.store.description import Pointer
from influcoder_lightning.valuation.fingerprint import data_set, frozen_weights, query_samples
from influcoder_lightning.valuation.resume import unfinished
from influcoder_lightning.valuation.valuation import Options


class Checkpointed(FailurePolicy):
    """A callback whose valuation goes on with ``trainer.fit(..., ckpt_path=...)``.

    The checkpoint holds a small pointer; towers, buffers and sketches lie beside the store. What
    Lightning itself would go on with wrongly is put right in the checkpoint, see `place`.
    """

    options: Options
    _query_batches: Iterable[Any] | None

    def __init__(self) -> None:
        super().__init__()
        self._resume: Pointer | None = None
        self._pointer: Pointer | None = None
        self._place: Place | None = None
        self._trouble: StoreError | None = None
        self._boundary, self._batch_open, self._step = True, False, 0

    def depends_on(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the rows depend on besides the callback's options and the LoRA.

        Kept with the run and compared when it goes on: a difference is refused. Here: the frozen
        weights, the kind of optimizer, the queries, and number and ids of the samples. What only
        you know, such as a hash of your files, an overriding method adds.

        Returns:
            Name -> JSON value. A text of 64 characters counts as a hash.
        """
        queries, reader = self._query_batches, self.options.reader
        return {
            "base_model": frozen_weights(pl_module),
            "optimizer": ", ".join(type(o).__name__ for o in trainer.optimizers),
            "queries": None if queries is None else query_samples(queries, reader),
            **data_set(getattr(trainer.train_dataloader, "dataset", None)),
        }

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make every row before this checkpoint durable, and let it point to what it needs."""
        place = place_of(checkpoint["loops"]["fit_loop"])
        if place is not None and place.in_hooks:  # another callback saves before ours had its turn
            self._finish_batch(trainer)
        self._save_state(trainer)
        if self._pointer is not None and self._pointer["step"] == trainer.global_step:
            checkpoint["callbacks"][self.state_key] = self._pointer

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where the checkpoint's valuation is; the training starts from there."""
        self._resume = cast(Pointer, state_dict)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let Lightning go on from the place in the data that the checkpoint stands for."""
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        pointer = checkpoint.get("callbacks", {}).get(self.state_key)
        if trainer.state.fn != TrainerFn.FITTING or pointer is None:
            return
        self._place = place_of(loop)
        try:
            if self._place is None:
                raise StoreError(
                    "the checkpoint does not say where in the data it stands, so that no run can "
                    "go on from it. It needs the loops of Lightning 2.0 or later."
                )
            step = pointer.get("step", checkpoint.get("global_step"))
            if step != checkpoint.get("global_step"):
                raise StoreError(
                    f"the checkpoint is of step {checkpoint.get('global_step')}, but its valuation "
                    f"of step {step}. Resume from another one."
                )
            go_on(loop, self._place)
        except StoreError as error:
            self._trouble = error  # raised where `on_error` is heard, when the training starts

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close a valuation that was interrupted when nothing was left to train."""
        pointer = self._resume
        if pointer is None or not unfinished(self._folder(trainer, pointer)):
            return
        rank_zero_info("influcoder: nothing is left to train; the valuation is closed.")
        self.on_train_start(trainer, pl_module)
        self.on_train_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a resumed epoch that its loader did not go on with."""
        place, self._place = self._place, None
        if place is not None:
            self._check_epoch(trainer, place)

    @valuing
    def _check_epoch(self, trainer: Trainer, place: Place) -> None:
        n, expected = trainer.fit_loop.batch_idx + 1, trainer.num_training_batches
        ended = trainer.should_stop or trainer.global_step == trainer.max_steps
        if n < expected != float("inf") and not ended:
            raise StoreError(
                f"the training was resumed at batch {place.batch} of an epoch of {expected}, but "
                f"the data loader ended it after {n}: its state does not lead on from this "
                "checkpoint. Use influcoder_lightning.data.EpochLoader, or resume from a "
                "checkpoint that was saved elsewhere in the epoch."
            )

    def _forget_checkpoint(self) -> None:
        """What an earlier ``validate`` or ``fit`` loaded is not gone on from."""
        self._resume = self._place = self._trouble = None

    def _check_resume(self, trainer: Trainer) -> None:
        """Raise what was wrong with the checkpoint; warn where a loader begins again.

        Raises:
            StoreError: the checkpoint's parts do not belong together.
        """
        self._batch_open = False
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        if self._resume is not None and not self._resume.get("whole_step", True):
            rank_zero_warn(
                "influcoder: this checkpoint was saved between the micro-batches of an optimizer "
                "step, and Lightning does not keep their gradients: the step that follows lacks "
                "them, though their rows are in the store."
            )
        if self._place is not None:
            warn_of_loader(self._place, trainer.train_dataloader)

    def _progress(self) -> dict[str, Any]:
        """What the callback itself must know to go on, as JSON values."""
        raise NotImplementedError

    def _folder(self, trainer: Trainer, pointer: Pointer | None) -> Path:
        """Where the store is."""
        raise NotImplementedError

    def _take_rows(self, trainer: Trainer) -> None:
        """Hand on the rows of the micro-batch that was trained on."""
        raise NotImplementedError

    def _end_step(self, trainer: Trainer) -> None:
        """What all processes do together after an optimizer step."""
        raise NotImplementedError

    def _finish_batch(self, trainer: Trainer) -> None:
        """Hand on the rows of the batch that was trained on last, unless that has been done."""
        if not self._batch_open:
            return
        self._batch_open = False
        self._take_rows(trainer)
        if self._boundary:
            self._agree(trainer)
            self._end_step(trainer)

    def _save_for_exception(self, trainer: Trainer) -> None:
        """Keep the state for a checkpoint that is about to be saved because of an exception.

        Not between an optimizer step and the end of its batch, whose rows would be missing, and
        not with several processes, of which the others may be somewhere else.
        """
        saving = any(
            isinstance(callback, OnExceptionCheckpoint)
            or getattr(callback, "save_on_exception", False)
            for callback in trainer.checkpoint_callbacks
        )
        if not saving or trainer.world_size > 1:
            return
        try:
            place = place_of(trainer.fit_loop.state_dict())
            if place is not None and place.in_hooks:
                self._finish_batch(trainer)
            if not self._batch_open or trainer.global_step == self._step:
                self._save_state(trainer)
        except Exception as error:  # one is under way already, and shall be seen
            rank_zero_warn(
                f"influcoder: the checkpoint of this exception has no valuation ({error}). Resume "
                "from an earlier one."
            )

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
        progress = self._progress()
        moment = [trainer.global_step, valuation.n_rows, valuation.recorder.n_windows, progress]
        if self._pointer is None or self._pointer["moment"] != moment:
            self._pointer = {
                **valuation.save_state(progress),
                "folder": str(valuation.folder),
                "step": trainer.global_step,
                "moment": moment,
                "whole_step": self._boundary,
            }
