"""Scores [M, N] of every method of the LDS benchmark, with their cost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from lds_sets import Study

from influcoder_lightning import InfluenceStore, Ranking, load_rows, rank
from influcoder_lightning.encoder.sentence_tower import joined, load_sentence_encoder
from influcoder_lightning.finetune.models import load_base_model
from influcoder_lightning.recipes.valuate import value
from influcoder_lightning.studies.retraining.truth import Truth

RIVALS = Path(__file__).parent / "rivals"


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        scores: [V, M, N], one for each valuation run; V = 1 where it needs none.
        source: "ours", "peer" or "baseline".
        seconds: CPU, beyond the fine-tuning itself, for all M queries and N samples, per run.
        bytes_per_sample: kept for each sample.
    """

    scores: np.ndarray
    source: str
    seconds: float
    bytes_per_sample: float


def valuations(study: Study, seeds: list[int], window: int | None) -> dict[int, InfluenceStore]:
    """The product's own run for each seed, at its defaults but for the window."""
    stores = {}
    for seed in seeds:
        folder = study.runs / f"valued_{seed}"
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            keys = {"influence__optimizer_features": True}
            materials = study.materials(
                seed=seed, influence__refresh_queries_every_n_steps=window, **keys
            )
            value(materials, folder)
            (folder / "done").touch()
        stores[seed] = InfluenceStore(folder)
    return stores


def plain_and_valued_seconds(study: Study, seed: int, window: int | None) -> tuple[float, float]:
    """CPU seconds of the fine-tuning alone, and with the callback at its defaults."""
    from influcoder_lightning.finetune.training import train
    from influcoder_lightning.run.base_model import lora_model

    materials = study.materials(seed=seed, influence__refresh_queries_every_n_steps=window)
    model = lora_model(materials.cfg, seed)
    begun = process_time()
    train(
        model,
        materials.pool.dataset,
        steps=materials.valuation_steps(),
        seed=seed,
        **materials.training_options(),
    )
    alone = process_time() - begun
    folder = study.runs / "timed"
    shutil.rmtree(folder, ignore_errors=True)
    begun = process_time()
    value(materials, folder)
    both = process_time() - begun
    shutil.rmtree(folder)
    return alone, both


def uncompressed(study: Study, truth: Truth, seed: int, window: int | None) -> np.ndarray:
    """[M, N] `cosine` from whole gradients: the same run, each gradient kept as it is."""
    folder = study.runs / f"uncompressed_{seed}"
    path = study.runs / f"uncompressed_{seed}.npy"
    if not path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        materials = study.materials(
            seed=seed,
            influence__refresh_queries_every_n_steps=window,
            influence__projector="identity",
            influence__keep_sketches=True,
            influence__co_train=False,
        )
        store = value(materials, folder)
        np.save(path, _whole_cosines(store, truth))
        shutil.rmtree(folder)
    return np.asarray(np.load(path))


def _whole_cosines(store: InfluenceStore, truth: Truth) -> np.ndarray:
    """Mean over a sample's rows of the cosines of whole gradients, by the definition."""
    place = {str(name): i for i, name in enumerate(truth.sample_ids)}
    query_place = {str(name): i for i, name in enumerate(store.query_ids)}
    order = [query_place[str(name)] for name in truth.query_ids]
    total = np.zeros((len(truth.query_ids), len(truth.sample_ids)))
    count = np.zeros(len(truth.sample_ids))
    records = store.records()
    for window, rows in records.groupby("window").indices.items():
        queries = _unit(store.query_sketches(int(window))[order])
        for row in rows:
            sample = place[str(records.sample_id[row])]
            total[:, sample] += queries @ _unit(store.sketches(slice(row, row + 1)))[0]
            count[sample] += 1
    return total / count


def ranked(
    store: InfluenceStore | None, truth: Truth, method: str, **options: Any
) -> tuple[np.ndarray, float]:
    """[M, N] scores of a ranking method, and the CPU seconds of asking for them."""
    begun = process_time()
    ranking: Ranking = rank(store, method, **options)
    return truth.scores_of(ranking), process_time() - begun


def baselines(
    study: Study, truth: Truth, store: InfluenceStore, text_encoder: str | None
) -> dict[str, Entry]:
    """What needs no gradients."""
    materials = study.materials()
    pool, queries = materials.pool.identified(), materials.query.identified()
    text = {"data": pool, "queries": queries}
    entries = {}
    for name in ("tfidf", "bm25"):
        scores, seconds = ranked(None, truth, name, **text)
        entries[name] = Entry(scores[None], "baseline", seconds, 0)
    rng = np.random.default_rng(0)
    entries["random"] = Entry(rng.normal(size=(3, *scores.shape)), "baseline", 0, 0)
    scores, seconds = ranked(store, truth, "loss")
    entries["loss"] = Entry(scores[None], "baseline", seconds, 4)
    model = load_base_model(materials.cfg.model.name)
    scores, seconds = ranked(
        None,
        truth,
        "rds",
        model=model,
        tokenizer=materials.tokenizer,
        template=materials.cfg.model.template,
        **text,
    )
    width = model.config.hidden_size
    entries["hidden states (RDS+)"] = Entry(scores[None], "baseline", seconds, 4 * width)
    if text_encoder is not None:
        begun = process_time()
        encoder = load_sentence_encoder(text_encoder)
        codes = [
            _unit(np.asarray(encoder.encode([joined(row) for row in rows])))
            for rows in (queries, pool)
        ]
        scores = codes[0] @ codes[1].T
        entries["text embedding (MiniLM)"] = Entry(
            scores[None], "baseline", process_time() - begun, 4 * codes[0].shape[1]
        )
    return entries


def write_work(study: Study, store: InfluenceStore, folder: Path) -> None:
    """What the rivals read: tokens, model and checkpoints of our own run."""
    materials = study.materials()
    adapters = sorted((store.folder / "adapters").glob("window_*"))
    epochs = 4
    some = adapters[:: max(1, len(adapters) // epochs)][1:]
    work = {
        "model": str(materials.cfg.model.name),
        "adapters": [str(path) for path in [*some, store.folder / "adapters" / "final"]],
        "batch_size": int(materials.cfg.train.batch_size),
    }
    parts: dict[str, Any] = {"pad_token_id": int(materials.tokenizer.pad_token_id)}
    assert materials.query is not None
    for name, split in (("pool", materials.pool), ("query", materials.query)):
        parts[name] = [
            {key: split.dataset[i][key].tolist() for key in ("input_ids", "labels")}
            for i in range(len(split))
        ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work.json").write_text(json.dumps(work))
    (folder / "tokens.json").write_text(json.dumps(parts))


def rival(python: str, script: str, method: str, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """[M, N] scores of a tool, run once in its own environment, and what it says of itself."""
    out = folder / f"{script}_{method}.npy"
    said = out.with_suffix(".json")
    if not said.exists():
        command = [python, str(RIVALS / f"lds_{script}.py"), method, "--work", str(folder)]
        done = subprocess.run(
            [*command, "--out", str(out)], check=True, capture_output=True, text=True
        )
        said.write_text(done.stdout.strip().splitlines()[-1])
    facts: Mapping[str, Any] = json.loads(said.read_text())
    return np.asarray(np.load(out)), dict(facts)


def unseen_tower(
    study: Study, truth: Truth, window: int | None, text_encoder: str | None
) -> dict[str, Entry]:
    """The text tower's scores of the pool, from a run that never saw it but 1,200 others."""
    folder = study.work / "others"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        materials = study.materials(
            data__pool=str(study.work / "other.jsonl"),
            influence__refresh_queries_every_n_steps=window,
            influence__text_encoder=text_encoder,
            train__epochs=1,
        )
        value(materials, folder)
        (folder / "done").touch()
    store = InfluenceStore(folder)
    pool = [dict(row) for row in load_rows(study.work / "pool.jsonl")]
    scores, seconds = ranked(store, truth, "encoder", data=pool)
    return {"text tower, unseen samples": Entry(scores[None], "ours", seconds, 0)}


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = np.asarray(rows, dtype=np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
