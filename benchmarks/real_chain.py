"""The whole chain on real instruction data: one valuation run, three query sets, retrained arms.

    python benchmarks/real_chain.py --data DATA --model MODEL --text-encoder FOLDER

DATA holds ``bbh.jsonl``, ``gsm8k.jsonl`` and ``alpaca_gpt4.jsonl`` (id, task, prompt, response).
Prints a table and writes ``benchmarks/results/real_chain.json``. ``--work FOLDER`` keeps the run
there; with the same folder an interrupted benchmark goes on where it stopped, and ``--only TASK``
lets several processes share the tasks between them.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torchmetrics.functional.retrieval import retrieval_r_precision

from influcoder_lightning import InfluenceStore, load_rows, write_jsonl
from influcoder_lightning.recipes.arms import run_arms
from influcoder_lightning.recipes.compare import arms_of
from influcoder_lightning.recipes.valuate import value as value_pool
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.run.materials import Materials

TASKS = ("bbh/hyperbaton", "bbh/temporal_sequences", "bbh/multistep_arithmetic_two")
TEMPLATE = "<s>### Instruction:\n{prompt}\n### Response:\n{response}</s>"
N_QUERY, N_EVAL, K, STEPS, SEEDS = 30, 60, 160, 40, (0, 1, 2)
METHODS = ("cosine", "tracin", "encoder", "tfidf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-encoder", default=None)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--lr", type=float, default=3e-5, help="of the valuation run")
    parser.add_argument("--epochs", type=int, default=1, help="of the valuation run")
    parser.add_argument("--window", type=int, default=47, help="optimizer steps per window")
    parser.add_argument("--retrain-lr", type=float, default=1e-3)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TASKS, help="one task; to run several at once")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "real_chain.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = options.work or Path(tempfile.mkdtemp(prefix="real_chain_"))
    work.mkdir(parents=True, exist_ok=True)

    write_splits(options.data, work, options.seed)
    valuation = report.cached(work / "valuation.json", lambda: valuate(options, work))
    tasks = {}
    for task in (options.only,) if options.only else TASKS:
        name = task.split("/")[1]
        tasks[task] = report.cached(
            work / f"{name}.json", lambda task=task: one_task(options, work, task)
        )
    if options.only:
        return
    settings = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
    result = {
        "settings": settings | {"k": K, "steps": STEPS, "seeds": SEEDS, "tasks": TASKS},
        "valuation": valuation,
        "tasks": tasks,
        "verdict": verdict(tasks),
        "environment": report.environment(),
    }
    report.write(options.out, result)
    show(result)


def write_splits(data: Path, work: Path, seed: int) -> None:
    """Pool, and query and evaluation rows of each task, as JSONL."""
    rng = random.Random(seed)
    bbh = load_rows(data / "bbh.jsonl")
    pool: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    held: set[tuple[str, str]] = set()
    for task in TASKS:
        rows = [row for row in bbh if row["task"] == task]
        rng.shuffle(rows)
        name = task.split("/")[1]
        write_jsonl(rows[N_QUERY : N_QUERY + N_EVAL], work / f"eval_{name}.jsonl")
        queries += rows[:N_QUERY]
        pool += rows[N_QUERY + N_EVAL :]
        held |= {(row["prompt"], row["response"]) for row in rows[: N_QUERY + N_EVAL]}
    others = [row for row in bbh if row["task"] not in TASKS]
    sources = (
        (others, 520),
        (load_rows(data / "gsm8k.jsonl"), 1000),
        (load_rows(data / "alpaca_gpt4.jsonl"), 1000),
    )
    for rows, count in sources:
        rng.shuffle(rows)
        pool += rows[:count]
    pool = [row for row in pool if (row["prompt"], row["response"]) not in held]
    write_jsonl(pool, work / "pool.jsonl")
    write_jsonl(queries, work / "query.jsonl")


def materials_of(options: argparse.Namespace, work: Path, **keys: Any) -> Materials:
    """The recipes' own materials for this benchmark's files."""
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["recipe=pipeline"])
    values = {
        "model.name": options.model,
        "model.template": TEMPLATE,
        "data.pool": str(work / "pool.jsonl"),
        "train.batch_size": 16,
        "train.max_length": options.max_length,
        "seed": options.seed,
        "seeds": list(SEEDS),
        "select.k": K,
        "retrain.steps": STEPS,
        **{key.replace("__", "."): value for key, value in keys.items()},
    }
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    return Materials(cfg, "real_chain")


def valuate(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One fine-tuning run over the pool, every sample valued for all three query sets."""
    materials = materials_of(
        options,
        work,
        data__query=str(work / "query.jsonl"),
        train__lr=options.lr,
        train__epochs=options.epochs,
        influence__refresh_queries_every_n_steps=options.window,
        influence__text_encoder=options.text_encoder,
        influence__overwrite=True,
    )
    with report.measured() as cost:
        store = value_pool(materials, work)
    return {
        **cost,
        "rows": len(store),
        "pool": len(materials.pool),
        "ms_per_sample": 1000 * cost["seconds"] / len(store),
        "bytes_per_row": store.path.stat().st_size / len(store),
        "drift": store.windows.drift.tolist(),
    }


def one_task(options: argparse.Namespace, work: Path, task: str) -> dict[str, Any]:
    """R-precision of each method and held-out loss of each arm for one query set."""
    name = task.split("/")[1]
    materials = materials_of(
        options, work, data__eval=str(work / f"eval_{name}.jsonl"), train__lr=options.retrain_lr
    )
    queries = [row for row in load_rows(work / "query.jsonl") if row["task"] == task]
    ids = [row["id"] for row in queries]
    pool = materials.pool.identified()
    store = InfluenceStore(work / "influence")
    rankings = {
        method: store.rank(method, queries=queries if method == "tfidf" else ids, data=pool)
        for method in METHODS
    }
    own, truth = [row["id"] for row in pool], torch.tensor([row["task"] == task for row in pool])
    precision = {
        method: float(retrieval_r_precision(torch.tensor(1 / ranking.align(own).ranks), truth))
        for method, ranking in rankings.items()
    }
    arms: dict[str, Any] = dict(arms_of(rankings["cosine"], materials.pool, K, SEEDS))
    for method in METHODS[1:]:
        arms[f"top_k_{method}"] = [rankings[method].top_k(K)] * len(SEEDS)
    with report.measured() as cost:
        losses = run_arms(arms, materials, seeds=SEEDS, steps=STEPS)
    return {
        "r_precision": precision,
        "comparison": summarise_arms(losses, K, STEPS, len(SEEDS)),
        "cost": cost,
    }


def verdict(tasks: dict[str, Any]) -> dict[str, Any]:
    """What the issue of this benchmark expects, answered from the numbers."""
    arms = {task: result["comparison"]["arms"] for task, result in tasks.items()}
    means = {
        arm: float(np.mean([a[arm]["mean"] for a in arms.values()]))
        for arm in next(iter(arms.values()))
    }
    return {
        "top_k_below_random_k": {
            t: a["top_k"]["mean"] < a["random_k"]["mean"] for t, a in arms.items()
        },
        "intervals_apart": {
            t: a["top_k"]["ci95"][1] < a["random_k"]["ci95"][0] for t, a in arms.items()
        },
        "mean_over_tasks": means,
        "cosine_not_above_tfidf_on_average": means["top_k"] <= means["top_k_tfidf"],
    }


def show(result: dict[str, Any]) -> None:
    """The table for people."""
    for task, values in result["tasks"].items():
        print(
            f"\n{task}: R-precision at {K} (chance {160 / result['valuation']['pool']:.2f}): ",
            end="",
        )
        print(", ".join(f"{m} {p:.2f}" for m, p in values["r_precision"].items()))
        for arm, entry in values["comparison"]["arms"].items():
            low, high = entry["ci95"] or (float("nan"), float("nan"))
            print(f"  {arm:16s} {entry['mean']:.4f}  [{low:.4f}, {high:.4f}]")
    print("\n" + json.dumps(result["verdict"], indent=1))
    valuation = {k: v for k, v in result["valuation"].items() if k != "drift"}
    print(json.dumps(valuation, indent=1))


if __name__ == "__main__":
    main()
