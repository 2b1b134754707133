r"""The step that an optimizer would take on one sample's gradient, from its state as it stands.

For a gradient g, the direction u(g) is what the optimizer's next step would subtract from the
weights, per unit of learning rate, if g were the gradient of that step:

- ``Adam``, ``AdamW`` (Kingma and Ba 2015, arXiv 1412.6980; as the influence of one sample: LESS,
  Xia et al. 2024, arXiv 2402.04333, section 3), with t steps done::

      m' = b1 m + (1 - b1) g        v' = b2 v + (1 - b2) g^2
      u  = m' / (1 - b1^(t+1)) / (sqrt(v' / (1 - b2^(t+1))) + eps)

  Before the first step m = v = 0, so that u = g / (|g| + eps). With ``amsgrad`` (Reddi et al. 2018)
  v' is the largest so far.
- ``SGD`` (Sutskever et al. 2013) with momentum mu and dampening tau::

      b' = mu b + (1 - tau) g       u = b'       nesterov: u = g + mu b'

  where b' = g before the first step; without momentum u = g.

Weight decay is no part of u: it moves the weights whatever the sample is. Nor is gradient clipping,
which depends on the whole batch. The optimizer is only read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from influcoder_lightning.capture.layers import LoraLinear
from influcoder_lightning.errors import CaptureError


def adam_direction(
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor | float,
    betas: tuple[float, float],
    eps: float,
    largest: Tensor | None = None,
) -> Tensor:
    """Adam's u(g) of each gradient, see the module.

    Args:
        gradients: [B, ...] float32.
        first: [...] float32 mean of the gradients so far, zero before the first step.
        second: [...] float32 mean of their squares.
        steps: t, the number of steps done.
        betas: decay b1, b2 of the two means.
        eps: added to the root.
        largest: [...] float32 the largest ``second`` so far, with amsgrad.

    Returns:
        [B, ...] float32.
    """
    b1, b2 = betas
    bias, bias_root = 1 - b1 ** (steps + 1), (1 - b2 ** (steps + 1)) ** 0.5
    up = torch.add(b1 * first, gradients, alpha=1 - b1)
    down = torch.addcmul(b2 * second, gradients, gradients, value=1 - b2)
    if largest is not None:
        down = torch.maximum(down, largest)
    # Both corrections on one side: m'/bias / (sqrt(v')/root + eps).
    down = down.sqrt_().mul_(bias / bias_root).add_(eps * bias)
    return up.div_(down)


def sgd_direction(
    gradients: Tensor,
    buffer: Tensor | None,
    momentum: float,
    dampening: float = 0.0,
    nesterov: bool = False,
) -> Tensor:
    """SGD's u(g) of each gradient, see the module.

    Args:
        gradients: [B, ...] float32.
        buffer: [...] float32 momentum buffer; None before the first step.
        momentum: mu.
        dampening: tau.
        nesterov: look ahead.

    Returns:
        [B, ...] float32; ``gradients`` itself where it is the same.
    """
    if momentum == 0:
        return gradients
    moved = gradients
    if buffer is not None:
        moved = torch.add(momentum * buffer, gradients, alpha=1 - dampening)
    return torch.add(gradients, moved, alpha=momentum) if nesterov else moved


Values = dict[str, Any]
"""A group of an optimizer's parameters, or what it keeps of one of them."""


class UpdateRule(ABC):
    """How an optimizer would move one weight; reads the state anew at each call.

    Args:
        optimizer: of the training.
        weight: one of its parameters.

    Raises:
        CaptureError: the optimizer does not hold the weight.
    """

    def __init__(self, optimizer: Optimizer, weight: Tensor) -> None:
        self._optimizer, self._weight = optimizer, weight
        groups = [
            index
            for index, group in enumerate(optimizer.param_groups)
            if any(weight is parameter for parameter in group["params"])
        ]
        if not groups:
            raise CaptureError(
                "`optimizer_features=True`: some trainable LoRA weights are not in the optimizer, "
                "so it has no update for them. Pass all trainable parameters to the optimizer, or "
                "freeze those weights."
            )
        self._index = groups[0]

    def direction(self, gradients: Tensor) -> Tensor:
        """u(g) of each gradient g.

        Args:
            gradients: [B, out, in] float32 gradients of the weight, in any memory layout.

        Returns:
            [B, out, in] float32; may be ``gradients`` itself, whose values may change.
        """
        group = self._optimizer.param_groups[self._index]
        if group.get("maximize"):
            gradients = gradients.neg_()
        # Not `state[weight]`: a defaultdict would make an entry.
        return self._direction(gradients, group, self._optimizer.state.get(self._weight, {}))

    @abstractmethod
    def _direction(self, gradients: Tensor, group: Values, state: Values) -> Tensor: ...


class AdamRule(UpdateRule):
    """Adam and AdamW, also fused, foreach, capturable and with amsgrad."""

    def _direction(self, gradients: Tensor, group: Values, state: Values) -> Tensor:
        largest = state.get("max_exp_avg_sq") if group["amsgrad"] else None
        return adam_direction(
            gradients,
            _beside(gradients, state.get("exp_avg", _NOTHING)),
            _beside(gradients, state.get("exp_avg_sq", _NOTHING)),
            _steps_done(state),
            (float(group["betas"][0]), float(group["betas"][1])),
            float(group["eps"]),
            None if largest is None else _beside(gradients, largest),
        )


class SgdRule(UpdateRule):
    """SGD, with or without momentum."""

    def _direction(self, gradients: Tensor, group: Values, state: Values) -> Tensor:
        buffer = state.get("momentum_buffer")
        return sgd_direction(
            gradients,
            None if buffer is None else _beside(gradients, buffer),
            float(group["momentum"]),
            float(group["dampening"]),
            bool(group["nesterov"]),
        )


_NOTHING = torch.zeros((), dtype=torch.float32)  # a mean before the first step
# Not their subclasses, which may do anything in their step.
_RULES: dict[type[Optimizer], type[UpdateRule]] = {
    torch.optim.Adam: AdamRule,
    torch.optim.AdamW: AdamRule,
    torch.optim.SGD: SgdRule,
}


def update_rules(optimizer: Optimizer, linears: Sequence[LoraLinear]) -> dict[str, UpdateRule]:
    """The rule of each layer's weight, by the layer's name.

    Raises:
        CaptureError: an optimizer whose update is not known here, a weight that it does not hold,
            or one whose state is spread over processes.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(f"torch.optim.{kind.__name__}" for kind in _RULES)
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise CaptureError(
            f"`optimizer_features=True` does not know how {kind} updates a weight. Train with one "
            f"of {known} (not a subclass), or switch the option off and rank by 'cosine'."
        )
    sharded = next((x.name for x in linears if isinstance(x.weight, DTensor)), None)
    if sharded is not None:
        raise CaptureError(
            f"`optimizer_features=True`: `{sharded}` is sharded, so that no process holds the "
            "optimizer's whole state. Use `strategy='ddp'`, or switch the option off."
        )
    return {linear.name: rule(optimizer, linear.weight) for linear in linears}


def _steps_done(state: Values) -> Tensor | float:
    step = state.get("step", 0.0)
    if isinstance(step, Tensor) and step.device.type != "cpu":
        return step.double()  # stays there: reading it would wait for the device
    return float(step)


def _beside(gradients: Tensor, value: Tensor) -> Tensor:
    """State [out, in] as float32 where the gradients [B, out, in] are, in their memory layout."""
    value = value.detach().to(gradients.device, torch.float32)
    turned = value.dim() == 2 and gradients.stride(-1) != 1
    return value.mT.contiguous().mT if turned else value
