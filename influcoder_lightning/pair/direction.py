"""Directions in LoRA space: weighted sums of samples' gradients, one tensor for each weight.

A linear score of a sample z is ``<g_z, v>``, g_z being the gradient of its mean response loss. For
`cosine` v is the mean unit gradient of the queries; for `fisher` it solves

    (F / s + damping) v = q,     F = mean over rows i of u_i u_i^T

with q that mean, u_i the unit gradients of rows of the pool and s the largest eigenvalue of F. Then
``v = (q - sum_i a_i u_i) / damping`` with ``a_i = <u_i, v> / (n s)``, and the a_i solve a system of
n equations in which only inner products of gradients occur; so v takes one further backward pass
over these rows, and no gradient is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.capture.untouched import untouched
from influcoder_lightning.devices import moved
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.threads import paced

Direction = dict[str, Tensor]
"""Name of a LoRA weight -> tensor of its shape, float32 on the model's device."""


def lora_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that directions are about, by name, as they stand.

    Raises:
        CaptureError: an adapter whose weights do more than be added (DoRA), or with biases or
            modules of its own, which a direction has no place for.
    """
    linears = find_lora_linears(model)
    for config in getattr(model, "peft_config", {}).values():
        for name in ("use_dora", "modules_to_save", "lora_bias"):
            if getattr(config, name, None):
                raise CaptureError(
                    f"{name} of this adapter: its effect is not linear in A and B alone, so that "
                    "two adapters cannot stand for a direction. Value with a plain LoRA."
                )
    return {linear.name: linear.weight for linear in linears}


def weighted_gradient(
    model: nn.Module, batches: Iterable[Any], weights: Sequence[float] | NDArray[np.floating]
) -> Direction:
    """``sum_i weights_i * g_i`` over the samples of all batches, in their order.

    Args:
        model: a PEFT model; its modes and ``.grad`` are put back.
        batches: of tokens, as `data.collate_samples` makes them.
        weights: one for each sample.
    """
    wanted = lora_weights(model)
    total = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in wanted.items()}
    device = next(iter(wanted.values())).device
    start = 0
    with untouched(model):
        for batch in paced(batches, "gradients"):
            losses = causal_lm_losses(model, moved(batch, device))
            own = torch.as_tensor(np.asarray(weights[start : start + len(losses)])).to(losses)
            start += len(losses)
            found = torch.autograd.grad((losses * own).sum(), list(wanted.values()))
            for name, gradient in zip(wanted, found, strict=True):
                total[name] += gradient.float()
    return total


def each_gradient(model: nn.Module, samples: Iterable[Any]) -> Iterator[tuple[Direction, float]]:
    """Gradient and loss of each sample, a batch of one at a time."""
    wanted = lora_weights(model)
    device = next(iter(wanted.values())).device
    with untouched(model):
        for sample in samples:
            loss = causal_lm_losses(model, moved(sample, device))[0]
            found = torch.autograd.grad(loss, list(wanted.values()))
            yield {n: g.float() for n, g in zip(wanted, found, strict=True)}, float(loss.detach())


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Inner product of two directions."""
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def length(a: Mapping[str, Tensor]) -> float:
    """Euclidean norm of a direction."""
    return dot(a, a) ** 0.5


def combined(a: Direction, b: Direction, weight: float, scale: float) -> Direction:
    """``scale * (a + weight * b)``."""
    return {name: scale * (a[name] + weight * b[name]) for name in a}


def fisher_weights(
    queries: NDArray[np.floating], rows: NDArray[np.floating], damping: float
) -> NDArray[np.float64]:
    """The ``a_i`` of the module's formula, [n].

    Args:
        queries: [M, D] features whose inner products are those of the queries' unit gradients.
        rows: [n, D] likewise of the rows.
        damping: share of F's largest eigenvalue.
    """
    unit = _unit(rows)
    mean = _unit(queries).mean(axis=0)
    gram = unit @ unit.T
    largest = max(float(np.linalg.eigvalsh(gram)[-1]), np.finfo(np.float64).tiny)  # n s
    # With b_i = <u_i, v>:  b = (U q - gram b / (n s)) / damping.
    system = damping * np.eye(len(gram)) + gram / largest
    return np.asarray(np.linalg.solve(system, unit @ mean) / largest)


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
