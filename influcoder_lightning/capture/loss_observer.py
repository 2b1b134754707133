"""Each sample's own loss, read off the logits of the training step's forward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from influcoder_lightning.capture.losses import aligned, observed_losses
from influcoder_lightning.capture.packing import Segments
from influcoder_lightning.errors import DataError


class LossObserver:
    """While armed, computes per-sample losses from the ``logits`` the language model returns.

    The model may be called through its PEFT wrapper or directly, so both are watched. It may also
    be called several times, as for a reference or an adversarial loss: what counts is the call
    whose logits the training's backward pass reaches.

    Attributes:
        terms: None, or a dict that gets the scalars that the model returns beside its loss.
    """

    def __init__(self, model: nn.Module) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        self._modules = [model] if base is model else [model, base]
        self._handles: list[RemovableHandle] = []
        self._labels: Tensor | None = None
        self._segments: Segments | None = None
        self._failure: Exception | None = None
        self._verified, self._in_backward = True, False
        self._calls: list[_Call] = []
        self.terms: dict[str, float] | None = None

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
        self._labels, self._segments, self._calls = labels, segments, []
        self._verified, self._failure, self._in_backward = segments is None, None, False

    def begin_backward(self) -> None:
        """Say that the training's own backward pass begins."""
        self._in_backward = True

    def finish(self, batch_size: int) -> Tensor:
        """[S] float32 losses on the CPU; NaN where the logits could not be read.

        Raises:
            DataError: a packed batch whose attention lets samples see each other, or was not seen.
        """
        calls, self._calls = self._calls, []
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
        trained = [call.losses for call in calls if call.trained] or [c.losses for c in calls[-1:]]
        if not trained:
            return torch.full((batch_size,), float("nan"), dtype=torch.float32)
        return torch.stack(trained).mean(0).cpu()

    def _hook(
        self, module: nn.Module, inputs: object, kwargs: dict[str, object], output: object
    ) -> None:
        if self._labels is None or self._in_backward or not torch.is_grad_enabled():
            return
        try:
            self._observe(module, kwargs, output)
        except Exception as error:  # the training step goes on; `finish` raises it
            self._failure, self._labels = error, None

    def _observe(self, module: nn.Module, kwargs: dict[str, object], output: object) -> None:
        assert self._labels is not None
        if self._segments is not None:
            self._segments.require_block_diagonal(kwargs, getattr(module, "config", None))
            self._verified = True
        if self.terms is not None and isinstance(output, Mapping):
            self.terms |= {n: float(x) for n, x in output.items() if n != "loss" and _is_scalar(x)}
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or not logits.requires_grad or not self._fits(logits):
            return
        if self._calls and self._calls[-1].logits() is logits:
            return  # the wrapper returns what the model inside it returned
        index = None if self._segments is None else self._segments.index
        call = _Call(logits, observed_losses(logits.detach(), self._labels, index))
        logits.register_hook(self._reached(call))
        self._calls.append(call)

    def _reached(self, call: _Call) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            call.trained |= self._in_backward

        return hook

    def _fits(self, logits: Tensor) -> bool:
        """Whether the logits belong to the batch at hand."""
        assert self._labels is not None
        if self._segments is None:
            return aligned(logits, self._labels)
        return logits.shape[:2] == self._segments.segment_ids.shape


class _Call:
    """One forward pass that returned logits."""

    def __init__(self, logits: Tensor, losses: Tensor) -> None:
        self.logits, self.losses, self.trained = weakref.ref(logits), losses, False


def _is_scalar(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
