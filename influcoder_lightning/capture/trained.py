"""Which of a run's LoRA weights require a gradient: looked at before every batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from influcoder_lightning.capture.layers import LoraLinear, lora_layers
from influcoder_lightning.errors import CaptureError


class TrainedLayers:
    """Follows ``requires_grad`` of the weights that a run captures, and of those it does not.

    A layer that is frozen while the run goes on is zero in rows and queries from then on, and a new
    window begins, so that both sides of a score have the same layers. One that was frozen when the
    run began has no place in its rows.

    Args:
        model: the language model.
        linears: what the run captures.
    """

    def __init__(self, model: nn.Module, linears: Sequence[LoraLinear]) -> None:
        self._linears = linears
        captured = {id(linear.weight) for linear in linears}
        self._others = [
            (f"{name}.{part}.{adapter}.weight", linear)
            for name, layer in lora_layers(model)
            for adapter in layer.active_adapters
            for part in ("lora_A", "lora_B")
            if adapter in (linears_of := getattr(layer, part, {}))
            and id((linear := linears_of[adapter]).weight) not in captured
        ]
        self._known = self._now()

    @property
    def changed(self) -> bool:
        """Whether other weights train than when `frozen` was asked for last.

        Raises:
            CaptureError: a weight trains that was frozen when the run began, or none does any more.
        """
        thawed = [name for name, linear in self._others if linear.weight.requires_grad]
        if thawed:
            raise CaptureError(
                f"`{thawed[0]}` and {len(thawed) - 1} other LoRA weights train now that were "
                "frozen when the run began: its rows have no place for them. Let every weight that "
                "will ever train require a gradient when the fit begins, and freeze it after the "
                "callback's on_train_start: frozen layers count as zero, on both sides of a score."
            )
        now = self._now()
        if not any(now):
            raise CaptureError("every captured LoRA weight is frozen: no sample has a gradient.")
        return now != self._known

    def frozen(self) -> list[str]:
        """Names of the captured weights that do not train now."""
        self._known = self._now()
        pairs = zip(self._linears, self._known, strict=True)
        return [linear.name for linear, trained in pairs if not trained]

    def _now(self) -> tuple[bool, ...]:
        return tuple(linear.weight.requires_grad for linear in self._linears)
