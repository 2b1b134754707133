"""What the text tower is trained for: to order samples as their gradients do."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def ranking_loss(
    scores: Tensor, targets: Tensor, alpha: float = 0.5, temperature: float = 0.05
) -> Tensor:
    """``alpha (1 - Pearson over the block) + (1 - alpha) mean_q KL(target_q || score_q)``.

    Both distributions are softmaxes over a query's candidates at ``temperature``. Influcoder,
    arXiv 2606.13668.

    Args:
        scores: [q, n] predicted cosines.
        targets: [q, n] gradient cosines, all of one window.
        alpha: weight of the Pearson term.
        temperature: of both softmaxes.
    """
    return alpha * (1 - pearson(scores, targets)) + (1 - alpha) * listwise_kl(
        scores, targets, temperature
    )


def pearson(scores: Tensor, targets: Tensor) -> Tensor:
    """Pearson correlation over all entries of a block (0 where one side is constant)."""
    a, b = scores.flatten() - scores.mean(), targets.flatten() - targets.mean()
    return (a @ b) / (a.norm() * b.norm()).clamp_min(1e-8)


def listwise_kl(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean over queries of KL(softmax(target / temperature) || softmax(score / temperature))."""
    return functional.kl_div(
        functional.log_softmax(scores / temperature, dim=1),
        functional.log_softmax(targets / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
