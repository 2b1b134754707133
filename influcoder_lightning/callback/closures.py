"""Optimizers that run the training step several times before they move the weights once."""

from __future__ import annotations

from typing import Any

import torch

from influcoder_lightning.errors import CaptureError


def refuse_closures(optimizer: Any) -> None:
    """Raise ``CaptureError`` for an optimizer known to run the training step several times."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise CaptureError(_message("L-BFGS"))


def refuse_second_pass(optimizer: Any) -> None:
    """One optimizer step has run the training step, with its backward pass, once more.

    Raises:
        CaptureError: always; the message names the optimizer.
    """
    raise CaptureError(_message(type(optimizer).__name__))


def _message(name: str) -> str:
    return (
        f"the optimizer {name} runs the training step several times in one optimizer step (as SAM "
        "and L-BFGS do): the gradients that move the weights are taken at other weights than the "
        "model has before and after, so that a sample has no one gradient in this step. Train with "
        "an optimizer that runs it once (AdamW, SGD), or value the data by extract_features."
    )
