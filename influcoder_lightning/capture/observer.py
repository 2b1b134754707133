"""Each sample's own loss, read off the logits of the training step's forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from influcoder_lightning.capture.losses import aligned, observed_losses
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.errors import DataError


class LossObserver:
    """While armed, computes per-sample losses from the ``logits`` the language model returns.

    The model may be called through its PEFT wrapper or directly, so both are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        self._modules = [model] if base is model else [model, base]
        self._handles: list[Any] = []
        self._labels: Tensor | None = None
        self._segments: Segments | None = None
        self._failure: Exception | None = None
        self._verified = True
        self.losses: Tensor | None = None

    def attach(self, *, compiled: bool = False) -> None:
        """Register the hooks; ``compiled``: the model runs through torch.compile."""
        if not self._handles:
            hook = torch.compiler.disable(self._hook) if compiled else self._hook
            self._handles = [m.register_forward_hook(hook, with_kwargs=True) for m in self._modules]

    def detach(self) -> None:
        """Remove the hooks."""
        self._labels = self._segments = None
        while self._handles:
            self._handles.pop().remove()

    def begin(self, labels: Tensor, segments: Segments | None = None) -> None:
        """Arm for one forward pass over S samples with these labels [S, L].

        Args:
            labels: of each sample.
            segments: where the samples lie in a packed batch. The forward pass must then keep them
                apart; `finish` raises `DataError` if it is not known to.
        """
        self._labels, self._segments, self.losses = labels, segments, None
        self._verified, self._failure = segments is None, None

    def finish(self, batch_size: int) -> Tensor:
        """[S] float32 losses on the CPU; NaN where the logits could not be read.

        Raises:
            DataError: a packed batch whose attention lets samples see each other, or was not seen.
        """
        losses, self.losses = self.losses, None
        failure, self._failure = self._failure, None
        unseen = self._labels is not None and not self._verified and batch_size > 0
        self._labels = self._segments = None
        if failure is not None and batch_size > 0:
            raise failure
        if unseen:
            raise DataError(
                "the batch is packed, but the language model was not called as a whole, so it "
                "cannot be told whether attention keeps the samples apart. Call the model itself "
                "in `training_step`, or use one sample per row."
            )
        return (
            torch.full((batch_size,), float("nan"), dtype=torch.float32)
            if losses is None
            else losses.cpu()
        )

    def _hook(self, module: nn.Module, inputs: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._labels is None or self.losses is not None or not torch.is_grad_enabled():
            return
        try:
            self._observe(module, kwargs, output)
        except Exception as error:  # the training step goes on; `finish` raises it
            self._failure, self._labels = error, None

    def _observe(self, module: nn.Module, kwargs: dict[str, Any], output: Any) -> None:
        assert self._labels is not None
        if self._segments is not None:
            self._segments.require_block_diagonal(kwargs, getattr(module, "config", None))
            self._verified = True
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and self._fits(logits):
            index = None if self._segments is None else self._segments.index
            self.losses = observed_losses(logits.detach(), self._labels, index)

    def _fits(self, logits: Tensor) -> bool:
        """Whether the logits belong to the batch at hand."""
        assert self._labels is not None
        if self._segments is None:
            return aligned(logits, self._labels)
        return logits.shape[:2] == self._segments.segment_ids.shape
