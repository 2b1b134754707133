"""When to hand metrics to Lightning."""

from __future__ import annotations

from lightning.pytorch import Trainer


def logs_now(trainer: Trainer) -> bool:
    """Whether Lightning would pass on what is logged in this step, or the epoch ends.

    Collecting metrics costs it as much as a layer of a small model, in every step.
    """
    every = getattr(trainer, "log_every_n_steps", 1)
    due = every > 0 and trainer.global_step % every == 0
    return not trainer.barebones and (due or trainer.is_last_batch)
