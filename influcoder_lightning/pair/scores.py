"""Scores by two forward passes: the slope of a sample's loss along a direction.

    <g_z, v> = d/de L_z(theta + e v) at e = 0
             = (L_z(theta + e v) - L_z(theta - e v)) / (2 e) + O(e^2)

L_z is a mean over response tokens, so each token has its share, and the shares add up to the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.capture.features import evaluating
from influcoder_lightning.capture.forward import logits_of, model_inputs
from influcoder_lightning.capture.losses import IGNORE_INDEX, response_tokens
from influcoder_lightning.devices import moved
from influcoder_lightning.pair.direction import Direction, lora_weights
from influcoder_lightning.pair.norm_model import NormModel


@dataclass(frozen=True)
class Slopes:
    """What two forward passes say of a batch.

    Attributes:
        slope: [B] float64, ``<g, v>`` in nats.
        loss: [B] float64, the mean of the two response losses, nats per response token.
        n_tokens: [B] int64, response tokens.
        shares: [B, T - 1] float64, each target's share of the slope; 0 where there is no loss.
    """

    slope: Tensor
    loss: Tensor
    n_tokens: Tensor
    shares: Tensor


def scaled(
    slopes: Slopes, norms: NormModel | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores [B], and each target's share of them [B, T - 1]: slopes by foreseen norms.

    Args:
        slopes: of a batch.
        norms: foresees the norm of each gradient; None: the slopes are the scores.
    """
    scale = np.ones(len(slopes.loss))
    if norms is not None:
        scale = 1 / norms(slopes.loss.numpy(), slopes.n_tokens.double().numpy())
    return slopes.slope.numpy() * scale, slopes.shares.numpy() * scale[:, None]


class AdapterPair:
    """A model's LoRA moved up and down along a direction.

    Args:
        model: PEFT model at theta; its weights are put back after each use.
        direction: v, for each LoRA weight.
        step: e, so that the adapters are ``theta + e v`` and ``theta - e v``.
    """

    def __init__(self, model: nn.Module, direction: Direction, step: float) -> None:
        self.model, self.direction, self.step = model, direction, step
        self._weights = lora_weights(model)
        self._home = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def slopes(self, batch: Any) -> Slopes:
        """Scores of a batch of tokens."""
        with self.moved(1):
            up, labels = token_losses(self.model, batch)
        with self.moved(-1):
            down, _ = token_losses(self.model, batch)
        n = response_tokens(labels)
        shares = (up - down) / (2 * self.step) / n.clamp(min=1)[:, None]
        loss = (up + down).sum(1) / 2 / n.clamp(min=1)
        return Slopes(shares.sum(1), loss, n, shares)

    @contextmanager
    def moved(self, sign: int) -> Iterator[None]:
        """The model at ``theta + sign * e v``."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                change = (sign * self.step) * self.direction[name]
                weight.copy_((self._home[name].float() + change).to(weight.dtype))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(self._home[name])


def token_losses(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Losses [B, T - 1] float64 of the targets (0 where there is none), and the labels [B, T]."""
    read = BatchReader().read(moved(batch, next(model.parameters()).device))
    labels = read.labels
    with evaluating(model), torch.no_grad():
        logits = logits_of(model(**model_inputs(model, read), use_cache=False), labels)
    targets = labels[:, 1:]
    losses = functional.cross_entropy(
        logits[:, : targets.shape[1]].flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    return losses.view(targets.shape).double().cpu(), labels.cpu()
