"""Warnings about runs that work, but whose scores mean less than they seem to."""

from __future__ import annotations

from math import isfinite

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from influcoder_lightning.capture.losses import LossReduction
from influcoder_lightning.capture.microbatch import MicroBatch
from influcoder_lightning.errors import CaptureError


class DriftWarning:
    """Warns where the queries' gradients turn too far within a window: once, and at the end.

    Args:
        least: the drift below which scores mix different states of the adapter.
    """

    def __init__(self, least: float) -> None:
        self._least, self._drifts = least, list[float]()

    def see(self, drift: float | None) -> None:
        """The drift of a window that has closed; None or NaN where there were no queries."""
        if drift is None or drift != drift:
            return
        if drift < self._least and not self._low:
            rank_zero_warn(
                f"influcoder: query gradients turned during the last window (drift {drift:.2f} < "
                f"{self._least}; 1: not at all): scores of its rows mix different states of the "
                "adapter. Shorten the windows with `refresh_queries_every_n_steps` (a key of "
                "`influence` in the command)."
            )
        self._drifts.append(drift)

    def close(self) -> None:
        """The run is over: say how many windows it was, if more than the one warned about."""
        if self._low > 1:
            rank_zero_warn(
                f"influcoder: query gradients turned in {self._low} of {len(self._drifts)} "
                f"windows (drift below {self._least}, lowest {min(self._drifts):.2f})."
            )

    @property
    def _low(self) -> int:
        return sum(drift < self._least for drift in self._drifts)


def warn_reduction(
    reduction: LossReduction, micro: MicroBatch, losses: Tensor, *, refuse: bool = False
) -> bool:
    """Warn if the declared reduction does not reproduce the training loss; True if it warned.

    Raises:
        CaptureError: it does not, and ``refuse`` is set.
    """
    expected = micro.expected_loss(losses)
    if expected is None or micro.loss is None or not isfinite(micro.loss):  # an AMP overflow
        return False
    if abs(micro.loss - expected) <= 0.05 * abs(expected) + 1e-6:
        return False
    mismatch = (
        f"`loss_reduction={reduction!r}` implies a training loss of {expected:.4g}, but the module "
        f"returned {micro.loss:.4g}."
    )
    if refuse:
        raise CaptureError(
            f"`optimizer_features=True` needs each sample's gradient in its own unit, but "
            f"{mismatch} Pass the matching `loss_reduction` (a callable for weights of your own), "
            "or switch the option off."
        )
    rank_zero_warn(
        f"influcoder: {mismatch} If the loss weighs samples differently, gradient norms and "
        "`tracin` scores will be off; pass the matching `loss_reduction`."
    )
    return True
