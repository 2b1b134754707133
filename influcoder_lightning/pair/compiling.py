"""From queries and rows of the pool to the two adapters: direction, norms, step, agreement."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from influcoder_lightning.capture.batches import BatchReader
from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.capture.queries import query_features
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.pair.direction import (
    Direction,
    combined,
    dot,
    each_gradient,
    fisher_weights,
    length,
    lora_weights,
    weighted_gradient,
)
from influcoder_lightning.pair.norm_model import NormModel
from influcoder_lightning.pair.scores import AdapterPair, scaled
from influcoder_lightning.projection import build_projector

log = logging.getLogger(__name__)
METHODS = ("cosine", "fisher", "tracin")
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)  # steps that are tried, of the LoRA's own norm
DAMPING = 0.1  # as of `fisher`


@dataclass(frozen=True)
class Agreement:
    """How scores of the pair agree with exact gradients, on rows that nothing was fitted to.

    Attributes:
        rows: how many.
        slopes: Spearman's rho of two forward passes with the exact inner product.
        scores: of the final scores with the method's own, exact ones.
        norms: of foreseen and true gradient norms; None where none is foreseen.
    """

    rows: int
    slopes: float
    scores: float
    norms: float | None


@dataclass(frozen=True)
class Compiled:
    """A direction, ready to score.

    Attributes:
        pair: the model between its two adapters.
        method: whose scores these are.
        share: the step as a share of the LoRA's norm.
        norms: foresees gradient norms; None: slopes are the scores (``tracin``).
        agreement: with exact gradients.
    """

    pair: AdapterPair
    method: str
    share: float
    norms: NormModel | None
    agreement: Agreement

    def scores(self, batch: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores [B] of a batch, and each token's share of them [B, T - 1]."""
        return scaled(self.pair.slopes(batch), self.norms)


def compile_pair(
    model: nn.Module,
    method: str,
    queries: Iterable[Any],
    rows: Iterable[Any],
    checks: Sequence[Any],
    *,
    sketch_dim: int = 8192,
    seed: int = 0,
    step: float | None = None,
) -> Compiled:
    """Compile a method's scores towards some queries, at the model as it stands.

    Args:
        model: PEFT model with the LoRA to score by, on its device.
        method: ``cosine``, ``fisher`` (curvature of ``rows``), or ``tracin`` (one window's term:
            inner products, not divided by norms).
        queries: batches, re-iterable.
        rows: batches of rows of the pool, re-iterable: curvature and norms are learned from them.
        checks: further samples of the pool, each a batch of one: half of them choose the step, the
            other half say how well it all agrees.
        sketch_dim: of the sketches that inner products of gradients are computed from.
        seed: of the sketches.
        step: share of the LoRA's norm; None: chosen among `SHARES`.

    Raises:
        ConfigError: another method, or fewer than 8 checks.
        CaptureError: an adapter that two adapters cannot stand for.
    """
    if method not in METHODS:
        raise ConfigError(
            f"rank.method={method} cannot be compiled: its scores are not linear in a sample's "
            f"gradient. Choose one of {', '.join(METHODS)}."
        )
    if len(checks) < 8:
        raise ConfigError(f"{len(checks)} rows to check with are too few; give 8 or more.")
    lora_weights(model)
    wanted, pool = (_features(model, batches, sketch_dim, seed) for batches in (queries, rows))
    direction = _direction(model, method, queries, wanted, rows, pool)
    norms = None
    if method != "tracin":
        columns = (pool.norm.double(), pool.loss.double(), pool.n_tokens.double())
        norms = NormModel.fit(*(column.cpu().numpy() for column in columns))
    scale = length(direction)
    if not scale > 0:
        raise RankingError("the queries' gradients cancel out: there is no direction to score by.")
    own = length({name: weight.detach() for name, weight in lora_weights(model).items()})
    exact, true_norms = [], []
    for gradient, _ in each_gradient(model, checks):
        exact.append(dot(gradient, direction))
        true_norms.append(length(gradient))
    chosen, rest = slice(0, None, 2), slice(1, None, 2)
    tried = {
        share: _slopes(AdapterPair(model, direction, share * own / scale), checks)
        for share in ([step] if step is not None else SHARES)
    }
    truth = np.array(exact)
    rho = {share: _rho(found.slope[chosen], truth[chosen]) for share, found in tried.items()}
    error = {s: float(np.abs(f.slope[chosen] - truth[chosen]).sum()) for s, f in tried.items()}
    share = max(tried, key=lambda one: (round(rho[one], 3), -error[one]))
    found = tried[share]
    target = truth if norms is None else truth / np.array(true_norms)
    scores = found.slope if norms is None else found.slope / norms(found.loss, found.n_tokens)
    agreement = Agreement(
        len(truth[rest]),
        _rho(found.slope[rest], truth[rest]),
        _rho(scores[rest], target[rest]),
        None if norms is None else norms.agreement,
    )
    pair = AdapterPair(model, direction, share * own / scale)
    return Compiled(pair, method, share, norms, agreement)


def _direction(
    model: nn.Module,
    method: str,
    queries: Iterable[Any],
    wanted: RowBatch,
    rows: Iterable[Any],
    pool: RowBatch,
) -> Direction:
    """v of the method, by passes over the queries and, for `fisher`, the rows."""
    n = len(wanted)
    norms = wanted.norm.double().cpu().numpy()
    weights = np.full(n, 1 / n) if method == "tracin" else 1 / (n * np.maximum(norms, 1e-30))
    mean = weighted_gradient(model, queries, weights)
    if method != "fisher":
        return mean
    sketches = (wanted.sketch.cpu().numpy(), pool.sketch.cpu().numpy())
    common = fisher_weights(*sketches, DAMPING) / np.maximum(
        pool.norm.double().cpu().numpy(), 1e-30
    )
    return combined(mean, weighted_gradient(model, rows, common), -1.0, 1 / DAMPING)


def _features(model: nn.Module, batches: Iterable[Any], sketch_dim: int, seed: int) -> RowBatch:
    """Sketches, norms, losses and token counts of all samples, by captured backward passes."""
    linears = find_lora_linears(model)
    projector = build_projector("countsketch", linears, sketch_dim, seed)
    capture = GradientCapture(linears, projector, model=model)
    capture.attach()
    try:
        return query_features(
            capture,
            model,
            batches,
            lambda batch: causal_lm_losses(model, batch),
            reader=BatchReader(),
            tokenizer=None,
        )
    finally:
        capture.detach()


@dataclass(frozen=True)
class _Found:
    slope: NDArray[np.float64]
    loss: NDArray[np.float64]
    n_tokens: NDArray[np.float64]


def _slopes(pair: AdapterPair, samples: Sequence[Any]) -> _Found:
    found = [pair.slopes(sample) for sample in samples]
    return _Found(
        torch.cat([one.slope for one in found]).numpy(),
        torch.cat([one.loss for one in found]).numpy(),
        torch.cat([one.n_tokens for one in found]).double().numpy(),
    )


def _rho(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(spearmanr(a, b).statistic) if len(a) > 1 else float("nan")
