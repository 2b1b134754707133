"""What trains the subset models of a study: the fine-tuning of the recipes, for part of a pool."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader, Dataset, Subset

from influcoder_lightning.capture.features import evaluating
from influcoder_lightning.capture.forward import causal_lm_losses
from influcoder_lightning.data.tokenization import collate_samples
from influcoder_lightning.finetune.models import device
from influcoder_lightning.finetune.retraining import Retraining
from influcoder_lightning.run.base_model import adapter_content, base_model
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.progress import quiet
from influcoder_lightning.run.settings import Settings, plain, resolved
from influcoder_lightning.studies.retraining.retraining import Job, Trainer


def settings_of(materials: Materials) -> dict[str, Any]:
    """What subset models depend on, besides subset and seed."""
    cfg = materials.cfg
    return {
        "model": Path(cfg.model.name).name,  # the same from another folder
        "template": cfg.model.template,
        "train": {k: v for k, v in plain(cfg.train).items() if k in _TRAINED},
        "lora": plain(cfg.lora),
        **{name: node for name, node in _groups(cfg).items() if node},
        **({} if cfg.model.adapter is None else {"adapter": adapter_content(cfg.model.adapter)}),
        "pool": materials.pool.fingerprint(),
        **materials.model_content,
    }


def _groups(cfg: Settings) -> dict[str, Any]:
    """What the groups say otherwise than release 0.1, which had none, would have done."""
    found: dict[str, Any] = {}
    for name in ("optimizer", "scheduler"):
        differs = plain(cfg[name]) != plain(resolved(defaults())[name])
        found[name] = plain(cfg[name]) if differs else None
    clipped = {name: cfg.trainer[name] for name in _CLIPPED if cfg.trainer[name] is not None}
    return found | {"trainer": clipped}


_CLIPPED = ("gradient_clip_val", "gradient_clip_algorithm")
_TRAINED = ("steps", "epochs", "batch_size", "accumulate", "lr", "weight_decay", "warmup",
            "max_length", "precision")  # fmt: skip


@dataclass(frozen=True)
class StartTraining:
    """Gets a process ready to train subset models; can be pickled.

    Attributes:
        settings: the configuration as plain values.
    """

    settings: Mapping[str, Any]

    def __call__(self) -> Trainer:
        """Load model and rows; returns what trains one job after the other."""
        logging.getLogger("influcoder_lightning").setLevel(logging.WARNING)
        warnings.simplefilter("ignore", DeprecationWarning)
        materials = Materials(Settings(self.settings), "lds")
        pool, query = materials.pool, materials.query
        assert query is not None
        retraining = Retraining(
            lambda: base_model(materials.cfg),
            plain(materials.cfg.lora),
            materials.training_options(alone=True),
            materials.cfg.model.adapter,
        )

        def train_one(job: Job, adapter: Path) -> list[float]:
            with quiet():
                if adapter.exists():
                    model = retraining.load(adapter)
                else:
                    # As many epochs as the valuation run has on the whole pool.
                    share = len(job.members) / len(pool)
                    steps = max(1, round(materials.valuation_steps() * share))
                    model = retraining.run(Subset(pool.dataset, list(job.members)), steps, job.seed)
                    _save(model, adapter)
            return sample_losses(model, query.dataset)

        return train_one


def _save(model: Any, adapter: Path) -> None:
    """Whole or not at all."""
    part = adapter.with_name(f"{adapter.name}.{os.getpid()}.part")
    model.save_pretrained(str(part))
    os.replace(part, adapter)


def sample_losses(model: Any, dataset: Dataset, batch_size: int = 32) -> list[float]:
    """Mean loss over its response tokens of each sample of a dataset, in nats."""
    model.to(device())
    losses: list[float] = []
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate_samples(0)
    )
    with evaluating(model), torch.no_grad():
        for batch in loader:
            batch = move_data_to_device(batch, device())
            losses += causal_lm_losses(model, batch, "labels").double().tolist()
    return losses
