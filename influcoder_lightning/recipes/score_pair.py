"""Scores of rows by the two adapters of a compiled ranking: forward passes alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.models import device, load_adapter
from influcoder_lightning.ids import as_id_array
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.pair.folders import PLUS
from influcoder_lightning.pair.scorer import PairScorer
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.run.base_model import base_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.run_folder import COMPILED, RANKING, locate, source_folder
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage
from influcoder_lightning.threads import paced

log = logging.getLogger(__name__)


def run(cfg: Settings, folder: Path, outputs: Any) -> None:
    """Write ``ranking.csv`` and a page.

    Raises:
        ConfigError: no compiled ranking in ``from``, or one of another model or template.
    """
    compiled = locate(source_folder(cfg, "score"), COMPILED)
    materials = Materials(cfg, "score")
    pool = materials.pool
    with stage("loading the model"):
        model: Any = load_adapter(base_model(cfg), compiled / PLUS).to(device())
        scorer = PairScorer(model, compiled)
        _refuse_other(materials, scorer, compiled)
    # Rows of like length together: padding is worked on as well.
    lengths = [len(pool.dataset[place]["input_ids"]) for place in range(len(pool))]
    order = np.argsort(lengths, kind="stable").tolist()
    scores = np.empty(len(pool))
    with stage("scoring by two forward passes", len(pool), "samples") as done:
        start = 0
        for batch in paced(materials.loader(Subset(pool.dataset, order)), "scoring"):
            found, _ = scorer.scores(batch)
            scores[order[start : start + len(found)]] = found
            start += len(found)
            done(start)
        done.result = f"{len(pool):,} samples by {scorer.method}"
    ranking = Ranking(
        as_id_array(pool.ids),
        scores,
        method="pair",
        metadata={"compiled": scorer.method, "agreement": scorer.content["agreement"]},
    )
    ranking.save(folder / RANKING)
    save_config(cfg, folder, pool=pool.fingerprint())
    page.write(
        folder,
        [
            page.opening("New samples, scored", materials, page.ranked(ranking, materials)),
            page.ranking_section(ranking, pool),
        ],
        outputs,
    )
    log.info("ranked %s samples by pair: %s", f"{len(ranking):,}", folder / RANKING)


def _refuse_other(materials: Materials, scorer: PairScorer, compiled: Path) -> None:
    """What the scores depend on must be what it was."""
    before = scorer.content.get("depends_on")
    now = materials.model_content
    if not isinstance(before, dict) or any(before.get(name) != now[name] for name in now):
        raise ConfigError(
            f"{compiled} was compiled for another model or tokenizer; give that one as model.name, "
            "or compile again."
        )
