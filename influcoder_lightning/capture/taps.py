"""Where a linear's inputs and output gradients are seen when a backward pass comes by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

Sink = Callable[[Tensor, Tensor], None]
"""Takes (x, d): a linear's inputs and output gradients."""


class Tap(torch.autograd.Function):
    """Identity on a linear's output; shows (x, d) to ``sink`` when the backward comes by."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, anchor: Tensor | None, sink: Sink) -> Tensor:
        """``output`` itself; autograd keeps ``x``."""
        ctx.save_for_backward(x)
        ctx.sink = sink
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient itself."""
        (x,) = ctx.saved_tensors
        ctx.sink(x.detach(), grads[0])
        return grads[0], None, None, None


def saves_elsewhere() -> bool:
    """Whether autograd hands what it saves to somebody else, who may not keep it in memory."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is None or top(False) is not None


def plain_arithmetic(device: str) -> AbstractContextManager[object]:
    """No autograd and no autocast; a backward pass mostly has neither, and asking costs less."""
    if not (torch.is_grad_enabled() or torch.is_autocast_enabled(device)):
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, enabled=False))
    return stack
