"""Are captured rows the gradients of the samples' own losses? Some of them, computed one by one.

`examine` pushes samples of a batch alone through the path that queries take; `compare` holds what
came out against the rows of the batch. A row whose sample was not what the loss says, whose inputs
or labels were others, or that belongs to another sample cannot pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.features import feature_rows
from influcoder_lightning.capture.forward import SampleLosses, response_losses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.one_sample import one_sample, one_source
from influcoder_lightning.capture.rows import RowBatch

_MOST = 10.0  # the tolerance may grow so much by what the sample's own rounding says
# Below this share of the batch's longest gradient, or this length, a gradient is rounding alone: a
# response right behind the first token has none in query and key weights, for example.
_NOTHING, _LEAST = 1e-3, 1e-5
_SAME = 0.999  # cosine of one sample's gradient with itself, however it was come by


@dataclass(frozen=True)
class Tolerance:
    """How far a sample alone may be from its row.

    Attributes:
        gradient: relative error of the gradient; None: `cosine` and a tenth of its length.
        cosine: least cosine of the two.
        loss: relative error of losses.
    """

    gradient: float | None = 1e-4
    cosine: float = 0.99
    loss: float = 1e-3


WIDE = Tolerance()
HALF = Tolerance(gradient=None, loss=1e-2)  # 16 bits somewhere on the way


@dataclass
class Examined:
    """Samples of a batch by themselves.

    Attributes:
        index: n samples' places in the batch.
        sketch: [n, D] float32, their gradients.
        loss: [n] their mean response losses.
        whole: rows of the batch in one pass of ours, in eval mode; None where there was none.
        noise: [n] relative distance of `sketch` from `whole`: what another shape does to rounding.
    """

    index: list[int]
    sketch: Tensor
    loss: Tensor
    whole: RowBatch | None = None
    noise: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass
class Finding:
    """What the comparison found; the largest figures of all samples.

    Attributes:
        gradient: largest relative error.
        cosine: smallest cosine.
        loss: largest relative error of a sample's loss; NaN where no loss was seen.
        wrong: places in the batch whose gradient differs.
        wrong_losses: places in the batch whose loss differs.
        rescaled: the gradients that differ have the right direction, but another length.
        swapped: a row that differs is another sample's.
    """

    gradient: float = 0.0
    cosine: float = 1.0
    loss: float = float("nan")
    wrong: list[int] = field(default_factory=list)
    wrong_losses: list[int] = field(default_factory=list)
    rescaled: bool = True
    swapped: bool = False


def examine(
    capture: GradientCapture,
    losses: SampleLosses,
    batch: TokenBatch,
    index: Sequence[int],
    *,
    keep_shape: bool = False,
    whole: RowBatch | None = None,
    scale: float = 1.0,
) -> Examined:
    """Push samples one by one, and the batch as a whole, through the path of the queries.

    Args:
        capture: attached hooks, between two micro-batches.
        losses: that path; the model is in eval mode.
        batch: where the samples are.
        index: their places; one may stand there twice.
        keep_shape: every pass has the batch's shape (compiled models): each sample's loss is run
            backward through the whole batch.
        whole: rows of such a pass of the whole batch, where they are what is to be compared: then
            nothing is known of rounding in the batch's shape.
        scale: see `feature_rows`.

    Raises:
        Exception: whatever the path raises that cannot take the batch.
    """
    try:
        ways = _in_its_batch if keep_shape else _alone
        parts = [ways(capture, losses, batch, i, scale) for i in index]
    except Exception:
        if keep_shape or batch.segments is not None:
            raise
        keep_shape = True  # its tensors cannot be cut into samples
        parts = [_in_its_batch(capture, losses, batch, i, scale) for i in index]
    found = Examined(
        list(index), torch.cat([p.sketch for p in parts]), torch.cat([p.loss for p in parts])
    )
    found.noise = torch.zeros(len(found.index))
    if whole is None and batch.segments is None and not keep_shape:
        found.whole = _whole(capture, losses, batch, scale)
    if found.whole is not None:
        found.noise = _distance(found.whole.sketch[found.index], found.sketch)
    return found


def compare(
    examined: Examined,
    rows: RowBatch,
    tolerance: Tolerance,
    *,
    used: Sequence[bool] | None = None,
) -> Finding:
    """Hold the rows of the batch against what its samples gave by themselves.

    Args:
        examined: of the same batch.
        rows: all its rows, in each sample's own unit; losses NaN where they were not seen.
        tolerance: for both.
        used: which of the examined samples count.
    """
    finding = Finding()
    nothing = max(_LEAST, _NOTHING * float(rows.sketch.norm(dim=1).max()))
    for place, i in enumerate(examined.index):
        if used is not None and not used[place]:
            continue
        alone, row = examined.sketch[place], rows.sketch[i]
        if max(float(alone.norm()), float(row.norm())) > nothing:
            _hold_gradient(finding, alone, row, tolerance, float(examined.noise[place]), i)
        if i in finding.wrong:
            # By direction: a row of another sample was brought into the unit of this one.
            others = cosine_similarity(rows.sketch, alone[None])
            others[i] = -1
            finding.swapped |= bool((others > _SAME).any())
        _hold_loss(finding, float(examined.loss[place]), float(rows.loss[i]), tolerance, i)
    return finding


def spread(places: list[int], n: int) -> list[int]:
    """``n`` of the places, first and last among them; repeated where there are fewer."""
    places = places or [0]
    if len(places) <= n:
        return [places[i % len(places)] for i in range(n)]
    return [places[round(i * (len(places) - 1) / max(1, n - 1))] for i in range(n)]


def tolerance_of(model: nn.Module) -> Tolerance:
    """16 bits where autocast, a weight or the matrix products have no more."""
    kinds = {p.dtype for p in model.parameters()}
    halves = kinds - {torch.float32, torch.float64}
    device = next(model.parameters()).device.type
    fast = torch.get_float32_matmul_precision() != "highest" and device != "cpu"
    return HALF if halves or fast or torch.is_autocast_enabled(device) else WIDE


def _hold_gradient(
    finding: Finding, alone: Tensor, row: Tensor, tolerance: Tolerance, noise: float, i: int
) -> None:
    error = float(_distance(row[None], alone[None]))
    cosine = float(cosine_similarity(row, alone, dim=0)) if error > 0 else 1.0
    length = float(row.norm() / alone.norm().clamp(min=1e-30)) if error > 0 else 1.0
    if tolerance.gradient is not None:
        allowed = min(max(tolerance.gradient, 4 * noise), _MOST * tolerance.gradient)
        fits = error <= allowed
    else:
        slack = min(max(1 - tolerance.cosine, 2 * noise**2), _MOST * (1 - tolerance.cosine))
        fits = cosine >= 1 - slack and abs(length - 1) <= 0.1
    finding.gradient, finding.cosine = max(finding.gradient, error), min(finding.cosine, cosine)
    if not fits:
        finding.wrong.append(i)
        finding.rescaled &= cosine > _SAME


def _hold_loss(finding: Finding, alone: float, row: float, tolerance: Tolerance, i: int) -> None:
    if row != row or alone != alone:
        return
    error = abs(row - alone) / max(abs(alone), 1e-6)
    finding.loss = error if finding.loss != finding.loss else max(finding.loss, error)
    if error > tolerance.loss:
        finding.wrong_losses.append(i)


def _distance(rows: Tensor, reference: Tensor) -> Tensor:
    """Relative distances [n] of rows [n, D]; 0 where both are zero."""
    gap = torch.linalg.vector_norm(rows - reference, dim=1)
    return torch.where(gap == 0, 0.0, gap / torch.linalg.vector_norm(reference, dim=1))


def _losses(losses: SampleLosses, batch: TokenBatch) -> Tensor:
    """Losses [B] of a batch; inputs that the model does not take are left to the comparison."""
    if losses.own is not None:
        return losses.own(batch.source)
    return response_losses(losses.model, batch, partial=True)


def _alone(
    capture: GradientCapture, losses: SampleLosses, batch: TokenBatch, index: int, scale: float
) -> RowBatch:
    own = losses.own is not None
    sample = one_source(batch, index) if own else one_sample(batch, index)
    return feature_rows(
        capture, None, [index], sample.labels, lambda _: _losses(losses, sample), scale=scale
    )


def _in_its_batch(
    capture: GradientCapture, losses: SampleLosses, batch: TokenBatch, index: int, scale: float
) -> RowBatch:
    """The gradient of one sample's loss, wherever in the batch the hooks saw it."""

    def one(_: object) -> Tensor:
        found = _losses(losses, batch)
        return (
            torch.zeros_like(found).index_fill(0, torch.tensor([index], device=found.device), 1.0)
            * found
        )

    rows = feature_rows(capture, None, list(range(len(batch))), batch.labels, one, scale=scale)
    total = rows.sketch.sum(0, keepdim=True)
    kept = slice(index, index + 1)
    return RowBatch([index], total, total.norm(dim=1), rows.n_tokens[kept], rows.loss[kept])


def _whole(
    capture: GradientCapture, losses: SampleLosses, batch: TokenBatch, scale: float
) -> RowBatch | None:
    """The batch in one pass; None where the memory does not hold it."""
    try:
        ids: list[int | str] = list(range(len(batch)))
        return feature_rows(
            capture, None, ids, batch.labels, lambda _: _losses(losses, batch), scale=scale
        )
    except torch.OutOfMemoryError:
        return None
