"""compile: a ranking as two ordinary adapters, which score any text by forward passes alone."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from influcoder_lightning.capture.adapters import adapter_loaded
from influcoder_lightning.data.encoders import template_called
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path
from influcoder_lightning.finetune.models import device
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.pair.compiling import Compiled, compile_pair
from influcoder_lightning.pair.folders import MINUS, PLUS, write_pair
from influcoder_lightning.pair.scorer import SCORE
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.compiled import compiled_sections, readme
from influcoder_lightning.run.base_model import lora_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import (
    COMPILED,
    STORE,
    locate,
    require,
    shown_path,
    source_folder,
)
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage
from influcoder_lightning.valuation.valuation import END

log = logging.getLogger(__name__)
OUTPUTS = (
    Output(
        COMPILED,
        "the adapters plus and minus, score.json (how they score) and a README",
        "compiled",
        lambda folder: _facts(read_json(folder / SCORE)),
    ),
)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``compiled/`` and a page."""
    source = source_folder(cfg, "compile")
    store = InfluenceStore(locate(source, STORE))
    cfg = cfg.copy()
    if cfg.queries is not None:
        cfg.data.query = cfg.queries
    materials = Materials(cfg, "compile")
    require(cfg, "data.query", "compile")
    pool, query = materials.pool, materials.query
    assert query is not None
    rows, checks = _drawn(len(pool), cfg)
    log.info(
        "%d rows of the pool for curvature and norms, %d others to choose the step and to check",
        len(rows), len(checks),
    )  # fmt: skip
    with stage("loading the model"):
        model: Any = lora_model(cfg).to(device())
    with adapter_loaded(model, store.folder / "adapters" / END):
        with stage("compiling") as done:
            compiled = compile_pair(
                model,
                str(cfg.rank.method),
                materials.loader(query.dataset),
                materials.loader(Subset(pool.dataset, rows)),
                [_alone(materials, place) for place in checks],
                sketch_dim=int(cfg.influence.sketch_dim),
                seed=int(cfg.seed),
                step=cfg.compile.step,
            )
            done.result = _agrees(asdict(compiled.agreement))
        write_pair(compiled.pair, folder / COMPILED)
        content = _content(compiled, materials, checks[-1])
    with durable_path(folder / COMPILED / SCORE) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with durable_path(folder / COMPILED / "README.md") as part:
        part.write_text(readme(content), encoding="utf-8")
    save_config(cfg, folder, pool=pool.fingerprint())
    head = page.opening("A ranking as two adapters", materials)
    page.write(folder, [head, *compiled_sections(content)], OUTPUTS)


def _drawn(n: int, cfg: Settings) -> tuple[list[int], list[int]]:
    """Places of rows to learn from, and of others to check with."""
    order = np.random.default_rng(int(cfg.seed)).permutation(n).tolist()
    n_checks = min(int(cfg.compile.checks), n // 3)
    if n_checks < 8:
        raise ConfigError(
            f"a pool of {n} rows leaves {n_checks} to check with; compile a run of 24 rows or more."
        )
    n_rows = min(int(cfg.compile.rows), n - n_checks)
    return sorted(order[n_checks : n_checks + n_rows]), sorted(order[:n_checks])


def _alone(materials: Materials, place: int) -> Any:
    (batch,) = materials.loader(Subset(materials.pool.dataset, [place]))
    return batch


def _content(compiled: Compiled, materials: Materials, place: int) -> dict[str, Any]:
    """What one must know to score with the two adapters, and one score to check it by."""
    cfg, sample = materials.cfg, _alone(materials, place)
    slopes = compiled.pair.slopes(sample)
    labels = sample["labels"][0].tolist()
    example = {
        "token_ids": sample["input_ids"][0].tolist(),
        "first_response_token": next(i for i, label in enumerate(labels) if label != -100),
        "slope": float(slopes.slope[0]),
        "loss": float(slopes.loss[0]),
        "response_tokens": int(slopes.n_tokens[0]),
        "score": float(compiled.scores(sample)[0][0]),
    }
    return {
        "method": compiled.method,
        "step": compiled.pair.step,
        "share_of_norm": compiled.share,
        "norm": None if compiled.norms is None else asdict(compiled.norms),
        "agreement": asdict(compiled.agreement),
        "template": template_called(cfg.model.template, materials.tokenizer).text,
        "train_on": cfg.data.train_on,
        "max_length": cfg.train.max_length,
        "model": Path(cfg.model.name).name,
        "queries": materials.n_queries,
        "depends_on": {**materials.model_content, "pool": materials.pool.fingerprint()},
        "example": example,
        "folders": [PLUS, MINUS],
    }


def _agrees(found: dict[str, Any]) -> str:
    return (
        f"rho {found['scores']:.3f} with exact scores of {found['rows']} rows that nothing was "
        "fitted to"
    )


def _facts(content: dict[str, Any]) -> Facts:
    return {
        "scores": f"{content['method']}, towards {content['queries']:,} queries",
        "agrees": _agrees(content["agreement"]),
    }


def _score_new(folder: Path) -> str:
    at = shlex.quote(shown_path(folder))
    return f"influcoder recipe=score from={at} rank.method=pair data.pool=new.jsonl"


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=_score_new,
    takes_over=("rank",),
)
