"""How a training loss weighs its samples, and each sample's own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from influcoder_lightning.errors import ConfigError, DataError

LossReduction = Literal["token_mean", "sample_mean", "sum"] | Callable[[Any], Tensor]
LossFunction = Callable[[Any], Tensor]
"""``batch -> [B]`` mean response losses."""
IGNORE_INDEX = -100
_BLOCK_NUMBERS = {"cpu": 2**19}  # logits worked on at a time; more where calls are dear


def response_tokens(labels: Tensor) -> Tensor:
    """Number of response tokens of each sample, [B] int64, after the causal shift."""
    return (labels[:, 1:] != IGNORE_INDEX).sum(1)


def aligned(logits: Tensor, labels: Tensor) -> bool:
    """Whether logits [B, T, V] have a row for each sample and a position for each target."""
    n = labels.shape[1] - 1
    return logits.dim() == 3 and len(logits) == len(labels) and logits.shape[1] in (n, n + 1)


def sample_weights(n_tokens: Tensor, reduction: LossReduction, batch: object) -> Tensor:
    """Weights w [B] float64 with ``training loss = sum_i w_i * (mean response loss of sample i)``.

    Args:
        n_tokens: [B] response tokens per sample.
        reduction: ``"token_mean"`` w_i = n_i / sum(n); ``"sample_mean"`` w_i = 1 / B; ``"sum"``
            (over tokens) w_i = n_i; or a callable ``batch -> weights [B]``.
        batch: handed to the callable.

    Raises:
        ConfigError: unknown name, or the callable returned another shape.
    """
    n = n_tokens.to(torch.float64)
    if callable(reduction):
        weights = torch.as_tensor(reduction(batch), dtype=torch.float64, device=n.device)
        if weights.shape != n.shape:
            raise ConfigError(
                f"`loss_reduction` returned weights of shape {tuple(weights.shape)} for a batch of "
                f"{len(n)} samples; it must return one weight per sample."
            )
        return weights
    if reduction == "token_mean":
        return n / n.sum()
    if reduction == "sample_mean":
        return torch.full_like(n, 1.0 / len(n))
    check_reduction(reduction)
    return n


def check_reduction(reduction: object) -> None:
    """Raise ``ConfigError`` unless ``reduction`` is a known name or a callable."""
    if not callable(reduction) and reduction not in ("token_mean", "sample_mean", "sum"):
        raise ConfigError(
            f"unknown `loss_reduction` {reduction!r}: choose 'token_mean', 'sample_mean', 'sum', "
            "or a callable that returns one weight per sample."
        )


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean response loss of each sample in nats per response token, [B] float32, differentiable.

    Args:
        logits: [B, T, V].
        labels: [B, T], -100 where no loss is taken; shifted here, as causal LMs do. Labels with one
            column more than there are logits are those of a batch that was shifted before.

    Raises:
        DataError: a sample has no response token.
    """
    n = response_tokens(labels)
    if bool((n == 0).any()):
        raise DataError(
            f"{int((n == 0).sum())} of {len(n)} samples have no response token (all labels are "
            f"{IGNORE_INDEX} after the causal shift): no loss is defined for them."
        )
    return summed_losses(logits, labels) / n


def summed_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """As `sample_losses`, but the sum over response tokens, which may be none.

    The labels are shifted rather than the logits: so no logit is copied, forwards or backwards.
    """
    targets = labels.new_full(logits.shape[:2], IGNORE_INDEX)
    targets[:, : labels.shape[1] - 1] = labels[:, 1:]
    token_losses = functional.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    return token_losses.view(targets.shape).sum(1)


@torch.no_grad()
def observed_losses(logits: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
    """As `sample_losses`, without gradient, a few response tokens' logits in memory at a time.

    Samples without a response token get NaN.

    Args:
        logits: [B, T, V].
        labels: [S, L], one row per sample.
        index: [S, L], where each sample's tokens are in the flattened [B * T] ones of a packed
            batch; None: sample i is row i.
    """
    keep = labels[:, 1:] != IGNORE_INDEX
    samples, places = keep.nonzero(as_tuple=True)
    positions = samples * logits.shape[1] + places if index is None else index[samples, places]
    targets, flat = labels[:, 1:][keep], logits.flatten(0, 1)
    sums = torch.zeros(len(labels), dtype=torch.float64, device=logits.device)
    block = max(1, _BLOCK_NUMBERS.get(logits.device.type, 2**26) // logits.shape[2])
    with torch.autocast(logits.device.type, enabled=False):
        for start in range(0, len(positions), block):
            some, wanted = positions[start : start + block], targets[start : start + block]
            first, length = int(some[0]), int(some[-1] - some[0]) + 1
            if len(some) < 0.8 * length:
                losses = functional.cross_entropy(flat[some].float(), wanted, reduction="none")
            else:  # a few tokens too many are cheaper than a copy
                every = wanted.new_full((length,), IGNORE_INDEX)
                every[some - first] = wanted
                picked = flat[first : first + length].float()
                losses = functional.cross_entropy(
                    picked, every, ignore_index=IGNORE_INDEX, reduction="none"
                )[some - first]
            sums.index_add_(0, samples[start : start + block], losses.double())
    return (sums / keep.sum(1)).float()
