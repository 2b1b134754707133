"""The self-check of a training run: Lightning's sanity check, for captured gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from influcoder_lightning.callback.scaling import loss_scale
from influcoder_lightning.capture.diagnosis import Evidence, closeness, differences
from influcoder_lightning.capture.forward import dropped_inputs
from influcoder_lightning.capture.layers import compiled_parts
from influcoder_lightning.capture.microbatch import MicroBatch
from influcoder_lightning.capture.rows import RowBatch
from influcoder_lightning.capture.self_check import (
    WIDE,
    Examined,
    Finding,
    compare,
    examine,
    spread,
    tolerance_of,
)
from influcoder_lightning.capture.untouched import untouched
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.processes import Processes
from influcoder_lightning.random_streams import streams_kept
from influcoder_lightning.valuation.valuation import Valuation

_TRIES = 20  # batches may overflow an AMP scale, or have no usable sample, before one is judged
_EXCUSE = (
    "This is a warning, since your `query_loss` replaces that path for queries; give the "
    "training's losses as `batch_loss` to have the rows checked."
)


@dataclass
class _Verdict:
    """What one process found.

    Attributes:
        error: what differs, in words; None: nothing.
        warning: what is worth saying though the rows are right, or could not be compared.
        line: how close it was.
        again: the batch could not be judged; the next one may be.
    """

    error: str | None = None
    warning: str | None = None
    line: str | None = None
    again: bool = False


class SanityCheck:
    """Due at the first captured micro-batch, examined before its forward, compared after its step.

    Every process runs the same passes; one without a usable sample repeats another and ignores it.

    Args:
        valuation: with the number of samples to examine; 0: no check.
        for_queries: whether there are queries; else inputs that they would not get hurt none.
        own_query_loss: queries have a loss of the user's, which must not be used here. Where the
            package's own path differs from the training, it is then a warning.

    Attributes:
        due: whether the next captured micro-batch is to be examined.
        returned: what the training step returned, where it is known.
        warned_loss: whether a warning about the training loss was given.
    """

    def __init__(self, valuation: Valuation, for_queries: bool, own_query_loss: bool) -> None:
        self._n, self._tries = valuation.options.sanity_samples, 0
        self._excused = own_query_loss and valuation.losses.own is None
        self._for_queries, self._tolerance = for_queries, WIDE
        self.due, self.warned_loss = self._n > 0, False
        self.returned: Any = None
        self._examined: Examined | None = None
        self._verdict: _Verdict | None = None
        self._used: list[bool] = []
        self._random = self._drew = False
        self._streams: list[Tensor] = []

    @property
    def speaks(self) -> bool:
        """Whether it judges the loss of the batch at hand, or has warned about losses."""
        return self._examined is not None or self.warned_loss

    def examine(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        valuation: Valuation,
        micro: MicroBatch,
        kept: Tensor,
    ) -> None:
        """Run the passes of our own, before the forward of the training.

        Args:
            trainer: for its precision.
            pl_module: put in eval mode meanwhile, and back as it was.
            valuation: between two micro-batches.
            micro: the batch.
            kept: [S] bool, samples that will have a row.
        """
        self.due, self._verdict, self._examined = False, _Verdict(), None
        self._random = _draws(pl_module)
        places = spread(kept.nonzero().flatten().tolist(), self._n)
        self._used = [bool(kept[i]) and i not in places[:k] for k, i in enumerate(places)]
        shaped = bool(compiled_parts(pl_module))
        try:
            with ExitStack() as stack:
                stack.enter_context(streams_kept())
                stack.enter_context(untouched(pl_module))
                stack.enter_context(trainer.precision_plugin.forward_context())
                self._tolerance = tolerance_of(valuation.model)
                self._examined = examine(
                    valuation.capture,
                    valuation.losses,
                    micro.batch,
                    places,
                    keep_shape=shaped,
                    scale=loss_scale(trainer),
                )
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            self._verdict.warning = (
                "the self-check could not run: the path that queries take cannot read the training "
                f"batches ({cause}). Rows were not compared with samples alone."
            )
        valuation.observer.terms = {}
        self._streams = _streams()

    def before_backward(self) -> None:
        """The training's forward is over: did it draw random numbers?"""
        if self._examined is not None and self._streams:
            after = _streams()
            self._drew = any(
                not torch.equal(a, b) for a, b in zip(self._streams, after, strict=True)
            )
            self._streams = []

    def compare(self, valuation: Valuation, micro: MicroBatch, rows: RowBatch | None) -> None:
        """Hold what was captured against what was examined; every process, once, then `settle`.

        Args:
            valuation: of the run.
            micro: the batch, with the loss that was run backward.
            rows: all its rows; None where the step returned no loss.
        """
        terms, valuation.observer.terms = valuation.observer.terms or {}, None
        examined, self._examined = self._examined, None
        if examined is None or self._verdict is None:
            return
        known = rows is not None and bool(torch.isfinite(rows.sketch[examined.index]).all())
        if rows is None or not known or not any(self._used):
            self._verdict.again = True
            return
        finding, by_loss = self._finding(examined, rows)
        evidence = self._evidence(valuation, micro, rows, examined, terms | _scalars(self.returned))
        if by_loss and not evidence.logits_seen:
            evidence.expected = None
        self._judge(finding, evidence, by_loss)

    def settle(self) -> None:
        """Agree with the other processes, then say or raise what was found.

        Raises:
            CaptureError: rows of some process are not the gradients they should be.
        """
        if self._verdict is None:
            return
        verdicts = [v for v in Processes().gather(self._verdict) if v is not None]
        self._verdict = None
        for error in (v.error for v in verdicts if v.error):
            if not self._excused:
                raise CaptureError(error)
            rank_zero_warn(f"influcoder: {error} {_EXCUSE}")
            return
        for warning in (v.warning for v in verdicts if v.warning):
            rank_zero_warn(f"influcoder: {warning}")
            return
        self._tries += 1
        line = next((v.line for v in verdicts if v.line), None)
        if line is None and any(v.again for v in verdicts) and self._tries < _TRIES:
            self.due = True
            return
        rank_zero_info(f"influcoder: self-check: {line or 'no sample could be compared.'}")

    def _finding(self, examined: Examined, rows: RowBatch) -> tuple[Finding, bool]:
        """The comparison, and whether both sides of it ran in eval mode."""
        trained = compare(examined, rows, self._tolerance, used=self._used)
        if not (self._random or (self._drew and trained.wrong)):
            return trained, False
        if examined.whole is None:
            return Finding(), True
        examined.noise = torch.zeros_like(examined.noise)
        return compare(examined, examined.whole, self._tolerance, used=self._used), True

    def _evidence(
        self,
        valuation: Valuation,
        micro: MicroBatch,
        rows: RowBatch,
        examined: Examined,
        terms: Mapping[str, float],
    ) -> Evidence:
        expected = micro.expected_loss(rows.loss)
        seen = expected is not None
        if not seen and examined.whole is not None:
            expected = micro.expected_loss(examined.whole.loss)
        dropped = (
            [] if valuation.losses.own is not None else dropped_inputs(valuation.model, micro.batch)
        )
        loss = float("nan") if micro.loss is None else micro.loss
        return Evidence(micro.ids, dropped, loss, expected, seen, terms, _factors(valuation.model))

    def _judge(self, finding: Finding, evidence: Evidence, by_loss: bool) -> None:
        assert self._verdict is not None
        term = evidence.explaining_term() if evidence.loss_error > self._tolerance.loss else None
        if term is not None and not (finding.wrong or finding.wrong_losses):
            self.warned_loss = True
            self._verdict.warning = (
                f"the training loss has a term beside the samples' own losses: `{term}` "
                f"({evidence.terms[term]:.4g}) makes the difference between {evidence.expected:.4g}"
                f" and {evidence.returned:.4g}. The captured gradients are those of the samples' "
                "own losses, so the run goes on."
            )
            return
        error = differences(finding, evidence, self._tolerance)
        # The training takes another loss, as adversarial training does: its rows are that loss's.
        trained = set(finding.wrong) <= set(finding.wrong_losses) and not finding.swapped
        harmless = bool(evidence.dropped) or (bool(finding.wrong) and trained)
        if error is not None and harmless and not self._for_queries:
            self._verdict.warning = f"{error} Without queries the rows may be right all the same."
        else:
            self._verdict.error = error
        self._verdict.line = closeness(finding, evidence, sum(self._used), by_loss)


def _draws(module: nn.Module) -> bool:
    """Whether a part in training mode has a rate of dropout above 0."""
    for part in module.modules():
        rates = [v for k, v in vars(part).items() if "drop" in k and isinstance(v, float)]
        rates += [part.p] if isinstance(part, nn.modules.dropout._DropoutNd) else []
        if part.training and any(0 < rate <= 1 for rate in rates):
            return True
    return False


def _streams() -> list[Tensor]:
    """The states of torch's random streams."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(i) for i in devices)]


def _factors(model: nn.Module) -> list[float]:
    """By what a model multiplies its auxiliary terms, as its configuration says."""
    base = getattr(model, "get_base_model", lambda: model)()
    config = getattr(base, "config", None)
    values = {} if config is None else vars(config)
    named = [v for k, v in values.items() if "coef" in k and isinstance(v, float)]
    return [1.0, *named]


def _scalars(outputs: Any) -> dict[str, float]:
    """What a training step returned beside its loss."""
    items = outputs.items() if isinstance(outputs, Mapping) else ()
    return {
        str(name): float(value)
        for name, value in items
        if name != "loss" and isinstance(value, Tensor) and value.numel() == 1
    }
