"""Valuing a pool: the training with the callback, or features of a frozen model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from influcoder_lightning.extract import extract_features
from influcoder_lightning.finetune.models import add_lora, device, load_adapter
from influcoder_lightning.finetune.training import Checkpoints, train
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.run.base_model import base_model, lora_model
from influcoder_lightning.run.loggers import run_loggers
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.progress import ShowSteps, Watched
from influcoder_lightning.run.resumed import RecipeValuation, depends_on
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.stages import stage
from influcoder_lightning.run.together import is_first
from influcoder_lightning.valuation.resume import (
    forget_states,
    is_complete,
    refuse_changed_store,
    refuse_changes,
)

log = logging.getLogger(__name__)
_ONLY_TRAINING = ("every_n_train_steps", "refresh_queries_every_n_steps")


def _outcome(store: InfluenceStore) -> str:
    """What a valuation gave, in one line."""
    return (
        f"{store.attributes['counts']['written']:,} rows of "
        f"{len(set(store.sample_ids.tolist())):,} samples valued in {len(store.windows)} windows "
        f"against {len(store.query_ids)} queries"
    )


def value_in_training(
    materials: Materials, where: Path, callbacks: Sequence[Callback] = ()
) -> InfluenceStore:
    """The store of a training run on the pool, written to ``where``; callbacks see it, too."""
    cfg = materials.cfg
    # Rows first: what is wrong with them shows before a model is loaded.
    pool, query, steps = materials.pool, materials.query, materials.valuation_steps()
    checkpoints = _checkpoints(cfg, where.parent)
    influence = plain(cfg.influence)
    facts = depends_on(materials)
    if cfg.resume and is_complete(where):
        refuse_changed_store(where, facts)
        log.info("the valuation is complete; going on behind it")
        return InfluenceStore(where)
    if cfg.resume and (checkpoints is None or checkpoints.newest() is None):
        log.warning("resume=true: there is no checkpoint in %s; starting anew", where.parent)
        influence["overwrite"] = True
    if cfg.resume and not influence["overwrite"]:
        refuse_changes(where, facts)  # before the model is loaded
    callback = RecipeValuation(
        facts,
        str(where),
        query_dataloader=None if query is None else materials.loader(query.dataset),
        tokenizer=materials.tokenizer,
        seed=cfg.seed,
        **influence,
    )
    loggers = run_loggers(cfg, where.parent)
    with stage("loading the model"):
        model = lora_model(cfg)
    with stage("fine-tuning", steps, "steps") as done:
        train(
            model,
            pool.dataset,
            steps=steps,
            seed=cfg.seed,
            callbacks=[ShowSteps(done), *callbacks, callback],
            loggers=loggers,
            checkpoints=checkpoints,
            **materials.training_options(),
        )
        store = InfluenceStore(where)
        done.result = _outcome(store)
    if checkpoints is not None and is_first():  # nothing is left to go on from
        shutil.rmtree(checkpoints.folder, ignore_errors=True)
        forget_states(where)
    return store


def _checkpoints(cfg: Settings, folder: Path) -> Checkpoints | None:
    every = cfg.train.checkpoint_every_n_steps
    if every is None:
        return None
    return Checkpoints(folder / "checkpoints", int(every), bool(cfg.resume))


def value_frozen(materials: Materials, where: Path) -> InfluenceStore:
    """The store of the pool's features in a model that is not trained, written to ``where``."""
    cfg = materials.cfg
    pool, query = materials.pool, materials.query
    with stage("loading the model"):
        model = base_model(cfg)
        if cfg.model.adapter is None:
            model = add_lora(model, plain(cfg.lora), cfg.seed)
        else:
            model = load_adapter(model, cfg.model.adapter)
    if cfg.model.adapter is None:
        log.info(
            "mode=frozen with a fresh LoRA: its B is zero, so that only the gradients of B say "
            "anything. Give a trained one with model.adapter=<folder>."
        )
    options = {k: v for k, v in plain(cfg.influence).items() if k not in _ONLY_TRAINING}
    loader = materials.loader(pool.dataset)
    with stage("extracting features", len(loader), "batches") as done:
        store = extract_features(
            model.to(device()),
            Watched(loader, done),
            where,
            query_dataloader=None if query is None else materials.loader(query.dataset),
            tokenizer=materials.tokenizer,
            seed=cfg.seed,
            show_progress=False,
            **options,
        )
        done.result = _outcome(store)
    return store
