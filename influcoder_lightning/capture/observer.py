"""Each sample's own loss, read off the logits of the training step's forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from influcoder_lightning.capture.losses import observed_losses


class LossObserver:
    """While armed, computes per-sample losses from the ``logits`` the language model returns.

    The model may be called through its PEFT wrapper or directly, so both are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        self._modules = [model] if base is model else [model, base]
        self._handles: list[Any] = []
        self._labels: Tensor | None = None
        self.losses: Tensor | None = None

    def attach(self) -> None:
        """Register the hooks."""
        if not self._handles:
            self._handles = [m.register_forward_hook(self._hook) for m in self._modules]

    def detach(self) -> None:
        """Remove the hooks."""
        self._labels = None
        while self._handles:
            self._handles.pop().remove()

    def begin(self, labels: Tensor) -> None:
        """Arm for one forward pass over samples with these labels [B, T]."""
        self._labels, self.losses = labels, None

    def finish(self, batch_size: int) -> Tensor:
        """[B] float32 losses on the CPU; NaN where the logits could not be read."""
        losses, self.losses, self._labels = self.losses, None, None
        return torch.full((batch_size,), float("nan")) if losses is None else losses.cpu()

    def _hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._labels is None or self.losses is not None or not torch.is_grad_enabled():
            return
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and logits.shape[:2] == self._labels.shape:
            self.losses = observed_losses(logits.detach(), self._labels)
