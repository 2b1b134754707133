"""When to hand metrics to Lightning, and what a run ends with."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from influcoder_lightning.valuation.valuation import Valuation


def logs_now(trainer: Trainer) -> bool:
    """Whether Lightning would pass on what is logged in this step, or the epoch ends.

    Collecting metrics costs it as much as a layer of a small model, in every step.
    """
    every = getattr(trainer, "log_every_n_steps", 1)
    due = every > 0 and trainer.global_step % every == 0
    return not trainer.barebones and (due or trainer.is_last_batch)


def report_counts(trainer: Trainer, valuation: Valuation, drift: float | None) -> None:
    """Say what became of all samples; a warning where some got no row."""
    counts = valuation.counts
    metrics = {"influcoder/rows_written": float(counts["written"])}
    if drift is not None and drift == drift:
        metrics["influcoder/drift"] = drift
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)
    reasons = "".join(f"; {n} kept out: {reason}" for reason, n in counts["kept_out"].items())
    message = (
        f"influcoder: {counts['written']} rows written for {counts['seen']} samples "
        f"seen{reasons}. Store: {valuation.folder}"
    )
    (rank_zero_warn if reasons else rank_zero_info)(message)
