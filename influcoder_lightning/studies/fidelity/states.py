"""The adapter in the two states of the study: fresh, and warmed up on the samples to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.capture.updates import adam_direction


@dataclass(frozen=True)
class AdamMoments:
    """An AdamW's state, flattened in the order of the gradient.

    Attributes:
        first: [P] float32 mean of gradients.
        second: [P] float32 mean of squared gradients.
        step: updates done.
        betas: decay of the two.
        eps: added to the denominator.
    """

    first: Tensor
    second: Tensor
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def update(self, gradients: Tensor) -> Tensor:
        """[n, P] direction in which Adam's next step would go for each gradient [n, P].

        LESS (Xia et al. 2024, arXiv 2402.04333), section 3: both moments move on with the sample's
        gradient and are corrected for bias. Before any step it is the sign of the gradient.
        """
        return adam_direction(gradients, self.first, self.second, self.step, self.betas, self.eps)


def no_moments(size: int) -> AdamMoments:
    """The state before the first step."""
    first, second = torch.zeros((2, size), dtype=torch.float32)
    return AdamMoments(first, second, 0)


class KeepMoments(Callback):
    """Keeps the state of the Trainer's first AdamW at the end of training, as ``moments``.

    Args:
        linears: whose weights, in this order.
    """

    def __init__(self, linears: Sequence[LoraLinear]) -> None:
        self._linears = linears
        self.moments: AdamMoments | None = None

    def on_train_end(self, trainer: Trainer, *_: object) -> None:
        """Copy the state."""
        optimizer = trainer.optimizers[0]
        states = [optimizer.state[linear.weight] for linear in self._linears]
        group = optimizer.param_groups[0]
        self.moments = AdamMoments(
            torch.cat([state["exp_avg"].detach().float().flatten().cpu() for state in states]),
            torch.cat([state["exp_avg_sq"].detach().float().flatten().cpu() for state in states]),
            int(states[0]["step"]),
            (float(group["betas"][0]), float(group["betas"][1])),
            float(group["eps"]),
        )
