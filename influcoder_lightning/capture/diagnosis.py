"""What a self-check found, in words: what differs, and why most likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from influcoder_lightning.capture.batches import TokenBatch
from influcoder_lightning.capture.forward import SampleLosses
from influcoder_lightning.capture.gradients import GradientCapture
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.capture.self_check import (
    Finding,
    Tolerance,
    compare,
    examine,
    spread,
    tolerance_of,
)
from influcoder_lightning.errors import CaptureError

_WAY_OUT = (
    "Say how the training computes its losses: `batch_loss` (or a method `influence_losses` of the "
    "module), `read_batch`, `labels_shifted`, `loss_reduction`. `sanity_samples=0` switches the "
    "check off."
)


@dataclass
class Evidence:
    """What is known beside the comparison.

    Attributes:
        ids: of the samples of the batch.
        dropped: tensors of the batch that the query forward does not get.
        returned: the loss that the training step returned; NaN where there is none to compare.
        expected: what the samples' own losses and weights make of it; None where unknown.
        logits_seen: whether the samples' losses were read off the training's own forward.
        terms: scalars that the model or the training step returned beside the loss.
        factors: by which a configuration multiplies such terms.
    """

    ids: Sequence[int | str]
    dropped: Sequence[str] = ()
    returned: float = float("nan")
    expected: float | None = None
    logits_seen: bool = True
    terms: Mapping[str, float] = field(default_factory=dict)
    factors: Sequence[float] = (1.0,)

    @property
    def loss_error(self) -> float:
        """Relative error of the training loss; NaN where it cannot be compared."""
        if self.expected is None:
            return float("nan")
        return abs(self.returned - self.expected) / max(abs(self.expected), 1e-6)

    def explaining_term(self) -> str | None:
        """The term beside the loss that makes up the difference, if one does."""
        if self.expected is None:
            return None
        gap = self.returned - self.expected
        for name, value in self.terms.items():
            if any(abs(gap - factor * value) <= 0.05 * abs(gap) for factor in self.factors):
                return name
        return None


def check_rows(
    capture: GradientCapture, losses: SampleLosses, batch: TokenBatch, rows: RowBatch, n: int
) -> str:
    """Hold ``n`` samples by themselves against the rows of the pass that took them together.

    Args:
        capture: attached hooks, between two batches; the model is in eval mode.
        losses: the path that made the rows.
        batch: of the samples.
        rows: all its rows.
        n: samples to compute.

    Returns:
        How close they are.

    Raises:
        CaptureError: they differ.
    """
    places = sorted(set(spread((rows.n_tokens > 0).nonzero().flatten().tolist(), n)))
    examined = examine(capture, losses, batch, places, whole=rows)
    tolerance = tolerance_of(losses.model)
    finding = compare(examined, rows, tolerance)
    evidence = Evidence(batch.ids() if batch.carries_ids else range(len(batch)))
    error = differences(finding, evidence, tolerance)
    if error is not None:
        raise CaptureError(error)
    return closeness(finding, evidence, len(places), False)


def differences(finding: Finding, evidence: Evidence, tolerance: Tolerance) -> str | None:
    """The error's text; None where nothing differs."""
    parts = []
    if finding.wrong:
        some = ", ".join(repr(evidence.ids[i]) for i in finding.wrong[:3])
        parts.append(
            f"the captured gradient of sample {some} is not that of its own mean response loss "
            f"(relative error {finding.gradient:.2g}, cosine {finding.cosine:.4f})"
        )
    if finding.wrong_losses:
        parts.append(f"losses of samples differ (relative error {finding.loss:.2g})")
    if evidence.loss_error > tolerance.loss:
        parts.append(
            f"the samples' losses imply a training loss of {evidence.expected:.4g}, but the "
            f"training step returned {evidence.returned:.4g}"
        )
    if not parts:
        return None
    causes = "; ".join(f"({i}) {cause}" for i, cause in enumerate(_causes(finding, evidence), 1))
    return (
        f"the self-check pushed samples of the first batch one by one through the path that "
        f"queries take: {'; '.join(parts)}. Likely causes, most likely first: {causes}. {_WAY_OUT}"
    )


def closeness(finding: Finding, evidence: Evidence, n: int, by_loss: bool) -> str:
    """The line of a check that found nothing."""
    losses = [x for x in (finding.loss, evidence.loss_error) if x == x]
    line = "1 sample alone gives" if n == 1 else f"{n} samples alone give"
    line += f" the captured gradients (relative error at most {finding.gradient:.1e})"
    line += f" and losses ({max(losses):.1e})." if losses else "; their losses were not seen."
    if by_loss:
        line += (
            " The model draws random numbers (dropout), so that gradients were compared in eval "
            "mode; the training path itself was compared by "
            + ("its loss only." if evidence.expected is not None else "nothing: no logits seen.")
        )
    return line


def _causes(finding: Finding, evidence: Evidence) -> list[str]:
    """All that could be, those first that something points to."""
    names = ", ".join(evidence.terms)
    lengths = bool(finding.wrong) and finding.rescaled
    pointers = (evidence.dropped, lengths, names, finding.swapped, not evidence.logits_seen)
    unexplained = bool(finding.wrong) and not any(pointers)
    changed = unexplained and bool(finding.wrong_losses)  # the training's own logits are others
    causes = [
        (
            bool(evidence.dropped),
            "inputs that the query forward did not get"
            + (f" ({', '.join(evidence.dropped)})" if evidence.dropped else ""),
        ),
        (changed, "inputs that are changed inside `training_step`, as in adversarial training"),
        (
            unexplained and not changed,
            "labels that are shifted already, or changed inside `training_step`",
        ),
        (lengths, "other weights of the samples in the loss than `loss_reduction` says"),
        (bool(names), "auxiliary terms in the loss" + (f" ({names})" if names else "")),
        (finding.swapped, "rows in another order than the batch's, or repeated, in the step"),
        (not evidence.logits_seen, "a loss whose logits were not seen (a fused loss)"),
    ]
    return [text for _, text in sorted(causes, key=lambda cause: not cause[0])]
