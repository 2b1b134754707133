"""Scores of a pool by every method at one state of a model: what icp_vs_influence compares."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import report

from influcoder_lightning import Ranking, extract_features, load_rows, rank, write_jsonl
from influcoder_lightning.finetune.models import load_adapter
from influcoder_lightning.finetune.training import steps_of_epochs, train
from influcoder_lightning.influence.methods.icp import icp_ranking
from influcoder_lightning.influence.probing.prober import InContextProber
from influcoder_lightning.run.base_model import base_model, lora_model

log = logging.getLogger(__name__)
KINDS = ("in domain", "out of domain")
# 512, the default, would hold the gradients of 500 samples without loss and show nothing.
CODE_DIM = 64


def staged(path: Path, compute: Callable[[], Any], seconds: dict[str, float], stage: str) -> Any:
    """The cached result; its CPU seconds are added to those of the stage."""

    def timed() -> dict[str, Any]:
        log.info("%s: %s", stage, path)
        with report.measured() as cost:
            result = compute()
        return {"result": result, "cpu_seconds": cost["cpu_seconds"]}

    found = report.cached(path, timed)
    seconds[stage] = seconds.get(stage, 0.0) + found["cpu_seconds"]
    return found["result"]


def value(
    options: argparse.Namespace,
    materials: Any,
    pool: list[Any],
    folder: Path,
    seconds: dict[str, float],
) -> dict[str, dict[str, list[float]]]:
    """Kind of query -> method -> scores in the order of the pool, all at one state of the model."""
    adapter = folder / "adapter"
    staged(
        folder / "warm_up.json", lambda: warm_up(options, materials, adapter), seconds, "warm-up"
    )
    files = (folder / "query_in.jsonl", folder / "query_out.jsonl")
    queries = dict(zip(KINDS, map(load_rows, files), strict=True))
    model = load_adapter(base_model(materials.cfg), adapter)
    influence = staged(
        folder / "gradients.json",
        lambda: by_gradients(options, materials, model, pool, queries, folder),
        seconds,
        "gradients and towers",
    )
    found = {}
    for kind, rows in queries.items():
        icp = staged(
            folder / f"icp {kind}.json",
            lambda rows=rows: by_probing(materials, model, pool, rows),
            seconds,
            f"icp {kind}",
        )
        text = rank(None, "tfidf", queries=rows, data=pool)
        found[kind] = icp | influence[kind] | {"TF-IDF": text.scores.tolist()}
    return found


def warm_up(options: argparse.Namespace, materials: Any, adapter: Path) -> int:
    """One epoch over the pool; saves the LoRA."""
    cfg = materials.cfg
    steps = steps_of_epochs(len(materials.pool), 1, cfg.train.batch_size)
    model = lora_model(cfg)
    training = materials.training_options() | {"lr": options.lr}
    train(model, materials.pool.dataset, steps=steps, seed=cfg.seed, **training)
    model.save_pretrained(str(adapter))
    return steps


def by_gradients(
    options: argparse.Namespace,
    materials: Any,
    model: Any,
    pool: list[Any],
    queries: dict[str, list[Any]],
    folder: Path,
) -> dict[str, dict[str, list[float]]]:
    """Exact inner product and cosine, and what the codes and the text tower make of the same."""
    write_jsonl([row for rows in queries.values() for row in rows], folder / "query.jsonl")
    asked = materials.split("query", str(folder / "query.jsonl"))
    found = {}
    # Half a gigabyte of gradients, not to be kept.
    with tempfile.TemporaryDirectory(dir=folder) as store_folder:
        store = extract_features(
            model,
            materials.loader(materials.pool.dataset),
            store_folder,
            query_dataloader=materials.loader(asked.dataset),
            tokenizer=materials.tokenizer,
            text_encoder=options.text_encoder,
            projector="identity",
            keep_sketches=True,
            code_dim=CODE_DIM,
            overwrite=True,
            show_progress=False,
        )
        gradients, anchors = store.sketches(), store.query_sketches()
        ids = [row["id"] for row in pool]
        places = {name: place for place, name in enumerate(store.query_ids.tolist())}
        for kind, rows in queries.items():
            names = [row["id"] for row in rows]
            mine = anchors[[places[name] for name in names]]
            products = mine @ gradients.T
            lengths = [np.linalg.norm(side, axis=1) for side in (mine, gradients)]
            rankings = {
                "inner product": Ranking(store.sample_ids, products.mean(axis=0)),
                "cosine": Ranking(store.sample_ids, (products / np.outer(*lengths)).mean(axis=0)),
                "codes": store.rank("cosine", queries=names),
                "text tower": store.rank("encoder", queries=names, data=pool),
            }
            found[kind] = {name: r.align(ids).scores.tolist() for name, r in rankings.items()}
    return found


def by_probing(
    materials: Any, model: Any, pool: list[Any], rows: list[Any]
) -> dict[str, list[float]]:
    """Share of queries that improve, and their mean gain."""
    prober = InContextProber(model, materials.tokenizer, rows, max_length=1024)
    zero_shot, one_shot, begun = prober.zero_shot(), [], perf_counter()
    for done, row in enumerate(pool, start=1):
        one_shot.append(prober.one_shot(row))
        if done % 50 == 0:
            left = (perf_counter() - begun) / done * (len(pool) - done)
            log.info("probed %d of %d (about %.0f s left)", done, len(pool), left)
    log.info("%s", prober.prompts.cuts)
    ids = np.arange(len(pool)), np.arange(len(rows))
    return {
        name: icp_ranking(*ids, zero_shot, np.stack(one_shot), score).scores.tolist()
        for name, score in (("icp", "share"), ("icp gain", "gain"))
    }
