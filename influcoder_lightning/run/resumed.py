"""What the rows of a recipe's valuation depend on, so that it goes on only with the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from influcoder_lightning.callback.influence_callback import InfluenceCallback
from influcoder_lightning.data.encoders import template_called
from influcoder_lightning.run.base_model import adapter_content
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.settings import plain
from influcoder_lightning.valuation.fingerprint import tokenizer_identity

# Where things are, and how often they are saved, is no part of what they are. The number of steps
# is compared as such, whether it came from `train.steps` or `train.epochs`.
_FREE = {
    "model.name", "model.adapter", "train.steps", "train.epochs", "train.checkpoint_every_n_steps",
    "train.log_csv", "data.pool", "data.query", "data.eval", "data.against",
}  # fmt: skip
_SECTIONS = ("model", "data", "train", "lora", "optimizer", "scheduler")
_OF_TRAINER = ("gradient_clip_val", "gradient_clip_algorithm", "overfit_batches")


def depends_on(materials: Materials) -> dict[str, object]:
    """Name -> value of all that decides on the rows, as `InfluenceCallback.depends_on` gives it.

    Rows and tokenizer by their content, in order; settings of the model, the data, the training and
    the LoRA by their values. Other steps than before are a difference as well: a run that ends
    elsewhere is another run, and what is told of it (`config.yaml`, the report) has one number.
    """
    cfg, query = materials.cfg, materials.query
    facts: dict[str, object] = {
        "data.pool": materials.pool.fingerprint(),
        "data.query": None if query is None else query.fingerprint(),
        "tokenizer": tokenizer_identity(materials.tokenizer),
        "steps": materials.valuation_steps(),
        "seed": cfg.seed,
    }
    for section in _SECTIONS:
        for name, value in plain(cfg.get(section) or {}).items():
            if f"{section}.{name}" not in _FREE:
                facts[f"{section}.{name}"] = value
    if cfg.model.adapter is not None:
        facts["adapter"] = adapter_content(cfg.model.adapter)
    facts |= {f"trainer.{name}": cfg.trainer[name] for name in _OF_TRAINER}
    facts["model.template"] = template_called(cfg.model.template, materials.tokenizer).text
    return facts


class RecipeValuation(InfluenceCallback):
    """The callback with what the recipe knows of its rows.

    Args:
        facts: see `depends_on`.
        dirpath: folder of the store.
        options: of `InfluenceCallback`.
    """

    def __init__(self, facts: Mapping[str, object], dirpath: str, **options: Any) -> None:
        super().__init__(dirpath, **options)
        self._facts = dict(facts)

    def depends_on(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the callback sees, and what the recipe knows."""
        return super().depends_on(trainer, pl_module) | self._facts

    @property
    def state_key(self) -> str:
        """That of the callback: checkpoints of earlier releases name it so."""
        return InfluenceCallback.__qualname__
