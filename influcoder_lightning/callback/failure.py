"""What happens to the training when the valuation is in trouble."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from influcoder_lightning.errors import CaptureError
from influcoder_lightning.processes import Processes
from influcoder_lightning.valuation.valuation import Valuation


class FailurePolicy(Callback):
    """A callback whose valuation may end before the training does.

    With ``on_error="raise"`` trouble is the training's trouble. With ``"warn"`` the valuation is
    given up: what it has is sealed, one warning says so, every later hook does nothing, and a
    checkpoint no longer points to it. With several processes all give up where one does, at the
    next optimizer step: until then each still takes part in what they do together.
    """

    on_error: str

    def __init__(self) -> None:
        super().__init__()
        self._valuation: Valuation | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._given_up = self._all_gave_up = False

    def _active(self) -> Valuation:
        if self._valuation is None:
            raise CaptureError("the valuation of this run has ended; call `trainer.fit` again.")
        return self._valuation

    def _give_up(self, trainer: Trainer, error: Exception) -> None:
        self._given_up = True
        reason, safe = f"{type(error).__name__}: {error}", "nothing"
        if self._valuation is not None:
            self._valuation.abort(trainer.global_step, reason)
            n_sealed = self._valuation.n_sealed
            safe = f"{n_sealed} rows in {self._valuation.folder}"
        self._release()
        warnings.warn(
            f"influcoder: THE VALUATION HAS STOPPED at step {trainer.global_step}; the training "
            f"goes on without it. Cause: {reason}. Safe so far: {safe}.",
            stacklevel=2,
        )

    def _agree(self, trainer: Trainer) -> None:
        """Where one process has given up, all do; every process calls it."""
        if self.on_error == "raise" or trainer.world_size == 1 or self._all_gave_up:
            return
        given_up = Processes().gather(self._given_up)
        self._all_gave_up = any(given_up)
        if self._all_gave_up and not self._given_up:
            rank = given_up.index(True)
            self._give_up(trainer, CaptureError(f"process {rank} has given up"))

    def _release(self) -> None:
        if self._valuation is not None:
            self._valuation.detach()
            self._valuation = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def valuing(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that serves the valuation only: trouble in it is dealt with as ``on_error`` says."""

    @wraps(hook)
    def guarded(self: FailurePolicy, trainer: Trainer, *args: Any) -> None:
        if self._given_up:
            return
        try:
            hook(self, trainer, *args)
        except Exception as error:
            if self.on_error == "raise":
                raise
            self._give_up(trainer, error)

    return guarded
