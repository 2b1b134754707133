"""Trainers and modules that cannot be captured, refused before anything is loaded."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

_REFUSED_STRATEGIES = ("FSDP", "DeepSpeed", "DataParallel", "XLA")


def refuse_other_trainer(trainer: Any) -> None:
    """Raise ``MisconfigurationException`` for a Trainer of another package."""
    if not isinstance(trainer, Trainer):
        raise MisconfigurationException(
            f"`InfluenceCallback` belongs to `lightning.pytorch`, but this Trainer comes from "
            f"`{type(trainer).__module__.split('.')[0]}`. Use `from lightning.pytorch import "
            "Trainer` (the two packages do not mix)."
        )


def refuse_uncapturable(trainer: Trainer, pl_module: LightningModule) -> None:
    """Raise ``MisconfigurationException`` for manual optimization and flattened weights."""
    if not pl_module.automatic_optimization:
        raise MisconfigurationException(
            "`InfluenceCallback` needs automatic optimization, but "
            f"{type(pl_module).__name__} sets `automatic_optimization=False`: its backward "
            "passes cannot be told apart. Value the data with `extract_features` instead."
        )
    strategy = type(trainer.strategy).__name__
    if strategy.startswith(_REFUSED_STRATEGIES):
        raise MisconfigurationException(
            f"`InfluenceCallback` does not support {strategy}: it rearranges the weights so "
            "that LoRA layers cannot be told apart. Use `strategy='ddp'`, or FSDP2 through "
            "`ModelParallelStrategy`."
        )
