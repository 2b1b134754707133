"""The pools and queries of the LDS benchmark: real rows on mini-llama, and built-in ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from influcoder_lightning import load_rows, write_jsonl
from influcoder_lightning.recipes.quickstart import make_data
from influcoder_lightning.recipes.quickstart_model import make_tiny
from influcoder_lightning.run.materials import Materials

TEMPLATE = "<s>### Instruction:\n{prompt}\n### Response:\n{response}</s>"
SOURCES = {"bbh": 40, "gsm8k": 13, "alpaca_gpt4": 13}  # file -> queries
PER_SOURCE, OTHERS = 80, 400
_BUILT_IN = ["quickstart.n_pool=240", "quickstart.n_query=40"]


@dataclass(frozen=True)
class Study:
    """A pool, queries, and samples of the same kind that are in neither.

    Attributes:
        work: folder with ``pool.jsonl``, ``query.jsonl`` and ``other.jsonl``.
        keys: configuration of all runs on it.
        runs: folder of the runs that depend on the queries.
    """

    work: Path
    keys: dict[str, Any]
    runs: Path

    def materials(self, **keys: Any) -> Materials:
        """The recipes' own materials; a double underscore in a name stands for a dot."""
        with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
            cfg = compose("config", overrides=["recipe=lds"])
        files = {f"data.{name}": str(self.work / f"{name}.jsonl") for name in ("pool", "query")}
        given = {key.replace("__", "."): value for key, value in keys.items()}
        for key, value in {**files, **self.keys, **given}.items():
            OmegaConf.update(cfg, key, value)
        return Materials(cfg, "lds")


def real(
    data: Path, model: str, work: Path, queries: str = "bbh", per_source: int = PER_SOURCE
) -> Study:
    """80 rows each of bbh, gsm8k and alpaca, 40 queries of bbh, 1,200 others of the three.

    ``query_gsm8k.jsonl`` and ``query_alpaca_gpt4.jsonl`` hold 13 queries of the other two, which
    ``queries`` may name instead.
    """
    rng = random.Random(0)
    parts: dict[str, list[dict[str, Any]]] = {"pool": [], "other": []}
    for name, n_query in SOURCES.items():
        rows = load_rows(data / f"{name}.jsonl")
        rng.shuffle(rows)
        start = n_query + per_source
        parts["query" if name == "bbh" else f"query_{name}"] = rows[:n_query]
        parts["pool"] += rows[n_query:start]
        parts["other"] += rows[start : start + OTHERS]
    work.mkdir(parents=True, exist_ok=True)
    for name, some in parts.items():
        write_jsonl(some, work / f"{name}.jsonl")
    keys = {
        "model.name": model,
        "model.template": TEMPLATE,
        "train.batch_size": 12,
        "train.max_length": 160,
        "train.lr": 2e-3,
        "train.epochs": 4,
    }
    if queries == "bbh":
        return Study(work, keys, work)
    keys["data.query"] = str(work / f"query_{queries}.jsonl")
    return Study(work, keys, work / queries)


def built_in(work: Path) -> Study:
    """240 rows of the quickstart's skills with its tiny model, pretrained here."""
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["recipe=quickstart", *_BUILT_IN])
    data = make_data(cfg, work / "made")
    if not (work / "model" / "model.safetensors").exists():
        make_tiny(cfg, data, work / "model")
    write_jsonl(data.pool, work / "pool.jsonl")
    write_jsonl(data.query, work / "query.jsonl")
    keys = {
        "model.name": str(work / "model"),
        "train.batch_size": 12,
        "train.max_length": 64,
        "train.lr": float(cfg.train.lr),
        "train.epochs": 4,
    }
    return Study(work, keys, work)
