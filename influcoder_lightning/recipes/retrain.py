"""retrain: a fresh LoRA on chosen rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch.utils.data import Dataset

from influcoder_lightning.finetune import evaluate, train
from influcoder_lightning.influence.atomic import atomic_path
from influcoder_lightning.models import add_lora, load_base_model
from influcoder_lightning.recipes.materials import Materials
from influcoder_lightning.recipes.progress import ShowSteps
from influcoder_lightning.recipes.run_folder import plain, save_config
from influcoder_lightning.recipes.stages import stage

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float | None:
    """Write ``adapter/`` and ``metrics.json``; returns the held-out loss, where there is one."""
    materials = Materials(cfg, "retrain")
    pool, evaluation = materials.pool, materials.evaluation
    with stage("loading the model"):
        model = load_base_model(cfg.model.name)
    before = None
    if evaluation is not None:
        with stage("measuring before"):
            before = evaluate(model, evaluation.dataset)
    steps = retrain_steps(materials)
    with stage("training", steps, "steps") as done:
        model = retrain(materials, model, pool.dataset, steps, cfg.seed, ShowSteps(done))
        done.result = f"{steps:,} steps on {len(pool):,} samples"
    after = None
    if evaluation is not None:
        with stage("measuring after"):
            after = evaluate(model, evaluation.dataset)
    model.save_pretrained(str(folder / "adapter"))
    metrics = {
        "eval_loss": {"before": before, "after": after},
        "steps": steps,
        "n_samples": len(pool),
    }
    with atomic_path(folder / "metrics.json") as part:
        part.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    save_config(cfg, folder, pool=pool.fingerprint())
    if before is not None and after is not None:
        log.info("held-out loss: %.4f before, %.4f after (nats per response token)", before, after)
    log.info("adapter: %s", folder / "adapter")
    return after


def retrain_steps(materials: Materials) -> int:
    """``retrain.steps``, or else the steps of the valuation run."""
    steps = materials.cfg.retrain.steps
    return materials.valuation_steps() if steps is None else int(steps)


def retrain(
    materials: Materials, base: Any, dataset: Dataset, steps: int, seed: int, show: ShowSteps
) -> Any:
    """A base model with a fresh LoRA, trained; ``unload()`` gives the base model back."""
    model = add_lora(base, plain(materials.cfg.lora), seed)
    options = materials.training_options()
    if materials.cfg.retrain.lr is not None:
        options["lr"] = materials.cfg.retrain.lr
    return train(model, dataset, steps=steps, seed=seed, callbacks=[show], **options)
