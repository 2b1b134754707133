"""icp: in-context probing, every sample valued as a one-shot demonstration for the queries."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from influcoder_lightning.data.rows import Row
from influcoder_lightning.errors import ConfigError, RankingError
from influcoder_lightning.files import durable_path, read_whole
from influcoder_lightning.finetune.models import device, load_adapter
from influcoder_lightning.ids import as_id_array
from influcoder_lightning.influence.methods.icp import check_score, icp_ranking
from influcoder_lightning.influence.probing.choose_queries import choose_queries
from influcoder_lightning.influence.probing.prober import InContextProber
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.score_files import mapped_array
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.report.press.blocks import Section, Text
from influcoder_lightning.run.base_model import base_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import FIGURES, RANKED
from influcoder_lightning.run.recipe import Output, Recipe
from influcoder_lightning.run.run_folder import RANKING, require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.stages import stage
from influcoder_lightning.threads import paced
from influcoder_lightning.valuation.fingerprint import as_kept, frozen_weights, tokenizer_identity

log = logging.getLogger(__name__)
BLOCK = 16  # demonstrations per file; what an interruption can cost


OUTPUTS = (
    RANKED,
    Output("icp.json", FIGURES),
    Output("icp.npz", "log-likelihoods of every query after every sample"),
)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``ranking.csv``, ``icp.npz``, ``icp.json``, ``report.html`` and ``report.md``.

    The same command in the same folder goes on where it stopped.
    """
    require(cfg, "data.query", "icp")
    check_score(cfg.icp.score)
    materials = Materials(cfg, "icp")
    pool, query = materials.pool, materials.query
    assert query is not None
    chosen = list(range(len(query)))
    if cfg.icp.n_queries is not None:
        encoder = cfg.influence.text_encoder
        n = int(cfg.icp.n_queries)
        chosen = choose_queries(query.rows, n, seed=cfg.seed, text_encoder=encoder)
        log.info("%s of %s queries chosen by k-means", f"{len(chosen):,}", f"{len(query):,}")
    queries = [query.rows[i] for i in chosen]
    with stage("loading the model"):
        model = base_model(cfg).to(device())
        if cfg.model.adapter is not None:
            model = load_adapter(model, cfg.model.adapter)
    options = {key: cfg.icp[key] for key in ("template", "max_length", "batch_tokens")}
    prober = InContextProber(model, materials.tokenizer, queries, **options)
    begun = perf_counter()
    with stage("measuring queries alone"):
        zero_shot = prober.zero_shot()
    settings = _settings(materials, queries, frozen_weights(model.requires_grad_(False)))
    one_shot, n_before = probe(prober, pool.rows, folder / "blocks", settings)
    seconds = perf_counter() - begun
    ids = as_id_array(pool.ids)
    query_ids = as_id_array([query.ids[i] for i in chosen])
    with durable_path(folder / "icp.npz") as part, part.open("wb") as file:
        np.savez(
            file,
            zero_shot=zero_shot,
            one_shot=one_shot,
            sample_ids=np.array([str(i) for i in pool.ids]),
            query_ids=np.array([str(i) for i in query_ids.tolist()]),
        )
    ranking = icp_ranking(ids, query_ids, zero_shot, one_shot, cfg.icp.score)
    ranking.save(folder / RANKING)
    summary: dict[str, Any] = {
        "n_samples": len(pool),
        "n_queries": len(queries),
        "score": cfg.icp.score,
        "mean_share": float((one_shot > zero_shot).mean()),
        "mean_gain": float((one_shot - zero_shot).mean()),
        "cuts": asdict(prober.prompts.cuts),
        "seconds": seconds,
        "samples_measured_before": n_before,
    }
    with durable_path(folder / "icp.json") as part:
        part.write_text(json.dumps(summary, indent=1) + "\n")
    save_config(cfg, folder, pool=pool.fingerprint())
    page.write(folder, _sections(materials, ranking, summary), OUTPUTS)
    log.info("ranked %s samples by icp: %s", f"{len(ranking):,}", folder / RANKING)


def probe(
    prober: InContextProber, rows: Sequence[Row], folder: Path, settings: dict[str, Any]
) -> tuple[np.ndarray, int]:
    """Log-likelihoods [N, M] of all rows; finished blocks are kept in ``folder`` and used again.

    Raises:
        ConfigError: the folder holds blocks of other settings, or damaged ones.
    """
    path = folder / "settings.json"
    if path.is_file():
        earlier = _earlier(path)
        comparable = as_kept(settings, earlier, path)
        changed = sorted(key for key in comparable if earlier.get(key) != settings[key])
        if changed:
            raise ConfigError(
                f"{folder} holds blocks of a run with another {', '.join(changed)}; choose another "
                "hydra.run.dir, or delete that folder to start anew."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with durable_path(path) as part:
            part.write_text(json.dumps(settings))
    before = 0
    blocks: list[np.ndarray] = []
    with stage("probing", len(rows), "samples") as done:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            file = folder / f"{start:09d}.npy"
            if file.is_file():
                blocks.append(_finished(file, (len(block), len(prober.prompts.queries))))
                for row in block:  # so that cuts are counted as in one go
                    prober.prompts.demonstration(row)
                before += len(block)
            else:
                blocks.append(np.stack([prober.one_shot(row) for row in paced(block, "probing")]))
                with durable_path(file) as part, part.open("wb") as open_file:
                    np.save(open_file, blocks[-1], allow_pickle=False)
            done(start + len(block))
        done.result = f"{len(rows) - before:,} samples, {before:,} were measured before"
    return np.concatenate(blocks), before


def _earlier(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(read_whole(path))
        if not isinstance(settings, dict):
            raise ValueError(f"a {type(settings).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({error!s:.200}); delete that folder to start anew."
        ) from error
    return settings


def _finished(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A block [samples, queries] of an earlier, interrupted run."""
    try:
        block = mapped_array(path)
        if block.dtype.kind != "f" or block.shape != shape:
            raise ValueError(f"it holds {block.dtype} of shape {block.shape}")
    except (RankingError, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged ({error!s:.200}); delete it to measure its samples anew."
        ) from error
    return np.array(block)


def _settings(materials: Materials, queries: Sequence[Row], weights: str) -> dict[str, Any]:
    """What the log-likelihoods depend on; ``weights`` are the model's with its adapter."""
    cfg = materials.cfg
    texts = json.dumps([[row["prompt"], row["response"]] for row in queries])
    return {
        "model": plain(cfg.model) | {"template": None},
        "template": cfg.icp.template,
        "max_length": cfg.icp.max_length,
        "base_model": weights,
        "tokenizer": tokenizer_identity(materials.tokenizer),
        "pool": materials.pool.fingerprint(),
        "queries": hashlib.sha256(texts.encode("utf-8")).hexdigest(),
    }


def _sections(materials: Materials, ranking: Ranking, summary: dict[str, Any]) -> list[Section]:
    cuts = summary["cuts"]
    text = (
        f"{summary['n_samples']:,} samples, each in front of {summary['n_queries']:,} queries. A "
        f"demonstration helps {summary['mean_share']:.0%} of the time; the mean gain is "
        f"{summary['mean_gain']:+.3f} nats per answer token. Cut to fit the context: "
        f"{cuts['query_prompts']} query prompts, {cuts['demonstration_prompts']} prompts and "
        f"{cuts['demonstration_responses']} responses of demonstrations."
    )
    return [
        page.opening(
            "In-context probing",
            materials,
            [*page.ranked(ranking, materials), Text(text, terms=["nats"])],
            ranked=False,
        ),
        page.ranking_section(ranking, materials.pool),
    ]


RECIPE = Recipe(run, OUTPUTS, next_command=page.choose_some, goes_on=True)
