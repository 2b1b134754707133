"""Rounds of selection against one round, chance and everything; and near-copies in the pool.

    python benchmarks/loop.py --data DATA --model MODEL --work WORK

DATA is that of real_chain.py, and so are the three tasks. For each of them `recipe=loop` runs for
two rounds. Then near-copies of the three best samples are planted until they are 5 % of the pool,
and what `top_k` takes from it is held against `diverse`. Prints tables and writes
``benchmarks/results/loop.json``; with the same WORK an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from real_chain import TASKS, TEMPLATE

from influcoder_lightning import Ranking, load_rows, select, write_jsonl
from influcoder_lightning.cli import run_recipe
from influcoder_lightning.recipes.arms import run_arms
from influcoder_lightning.recipes.loop import run_rounds
from influcoder_lightning.recipes.valuate import rank, value
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.selection.diversity import MAX_SIMILARITY, SampleCodes

N_TASK, N_OTHER, N_QUERY, N_EVAL = 40, 72, 30, 30  # rows; N_OTHER from each of three sources
SEEDS, K_DIVERSE = (0, 1, 2), 24
ORIGINALS, COPIES = 3, 4
SETTINGS = {
    "rank.method": "cosine",
    "train.batch_size": 8,
    "train.max_length": 160,
    "train.lr": 3e-5,  # gentle, see "real_chain: how to read it"
    "retrain.lr": 1e-3,
    "retrain.steps": 20,
    "loop.rounds": 2,
    "loop.share": 0.3,
    "loop.patience": 2,
    "seeds": list(SEEDS),
}
# What changes between a sample and its copies: nothing that a reader would notice.
EDITS = ("{} ", "{}\n", " {}", "{}  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--out", type=Path, default=report.RESULTS / "loop.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = {task: options.work / task.split("/")[1] for task in options.only}
    settings = {}
    for task in options.only:
        write_splits(options.data, work[task], task, options.seed)
        settings[task] = settings_of(options, work[task])
    copies = {
        task: report.cached(
            work[task] / "diverse.json", partial(near_copies, settings[task], work[task])
        )
        for task in options.only
    }
    tasks = {
        task: {
            "loop": report.cached(
                work[task] / "loop_cost.json", partial(rounds, settings[task], work[task])
            ),
            "diverse": copies[task],
        }
        for task in options.only
    }
    result = {
        "settings": SETTINGS
        | {"pool": N_TASK + 3 * N_OTHER, "queries": N_QUERY, "evaluation": N_EVAL}
        | {"k_diverse": K_DIVERSE, "max_similarity": MAX_SIMILARITY, "seed": options.seed},
        "tasks": tasks,
        "mean_over_tasks": means(tasks),
        "environment": report.environment(),
    }
    report.write(options.out, result)
    show(result)


def write_splits(data: Path, work: Path, task: str, seed: int) -> None:
    """Pool, query and evaluation rows of a task as JSONL."""
    rng = random.Random(seed)
    bbh = load_rows(data / "bbh.jsonl")
    own = [row for row in bbh if row["task"] == task]
    rng.shuffle(own)
    held = N_QUERY + N_EVAL
    write_jsonl(own[:N_QUERY], work / "query.jsonl")
    write_jsonl(own[N_QUERY:held], work / "eval.jsonl")
    pool = own[held : held + N_TASK]
    others = [row for row in bbh if row["task"] not in TASKS]
    for rows in (others, load_rows(data / "gsm8k.jsonl"), load_rows(data / "alpaca_gpt4.jsonl")):
        rng.shuffle(rows)
        pool += rows[:N_OTHER]
    rng.shuffle(pool)
    write_jsonl(pool, work / "pool.jsonl")


def settings_of(options: argparse.Namespace, work: Path) -> DictConfig:
    """The configuration of recipe=loop for one task."""
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["recipe=loop"])
    files = {f"data.{name}": str(work / f"{name}.jsonl") for name in ("pool", "query", "eval")}
    model = {"model.name": options.model, "model.template": TEMPLATE, "seed": options.seed}
    for key, setting in {**SETTINGS, **files, **model}.items():
        OmegaConf.update(cfg, key, setting)
    return cfg


def rounds(cfg: DictConfig, work: Path) -> dict[str, Any]:
    """What `recipe=loop` finds, and the share of the task's rows in each choice."""
    run_recipe("loop", cfg, work / "loop")
    result = json.loads((work / "loop" / "loop.json").read_text())
    task = load_rows(work / "query.jsonl")[0]["task"]
    shares = {}
    for r in result["rounds"]:
        rows = load_rows(work / "loop" / f"round_{r['round']}" / "selected.jsonl")
        shares[f"round_{r['round']}"] = float(np.mean([row["task"] == task for row in rows]))
    return result | {"share_of_task": shares}


def copies_of_earlier(codes: np.ndarray) -> int:
    """How many of unit codes [n, d] have a cosine above the limit with an earlier one."""
    return int((np.triu(codes @ codes.T, 1) > MAX_SIMILARITY).any(axis=0).sum())


def near_copies(cfg: DictConfig, work: Path) -> dict[str, Any]:
    """`top_k`, `diverse` and chance on a pool with planted near-copies of its best samples."""
    run_rounds(Materials(cfg, "loop"), work / "loop")  # recipe=loop does not do them again
    folder = work / "copies"
    pool = load_rows(work / "pool.jsonl")
    by_id = {str(row["id"]): row for row in pool}
    best = Ranking.load(work / "loop" / "round_1" / "ranking.csv").top_k(ORIGINALS)
    for name in map(str, best):
        for turn, edit in enumerate(EDITS[:COPIES]):
            row = by_id[name]
            pool.append({**row, "id": f"{name}-copy{turn}", "prompt": edit.format(row["prompt"])})
    random.Random(cfg.seed).shuffle(pool)
    write_jsonl(pool, folder / "pool.jsonl")
    cfg = cfg.copy()
    cfg.data.pool = str(folder / "pool.jsonl")
    cfg.influence.overwrite = True
    materials = Materials(cfg, "benchmark")
    with report.measured() as spent:
        store = value(materials, folder)
        ranking = rank(store, materials, folder)
        codes = SampleCodes(store)
        chosen = {
            "top_k": ranking.top_k(K_DIVERSE),
            "diverse": select(ranking, "diverse", K_DIVERSE, codes=codes),
        }
        everyone = Ranking(ranking.sample_ids, np.zeros(len(ranking)))
        draws = [select(everyone, "random", K_DIVERSE, seed=seed) for seed in SEEDS]
        arms = {name: [ids] * len(SEEDS) for name, ids in chosen.items()} | {"random_k": draws}
        losses = run_arms(arms, materials, seeds=SEEDS, steps=cfg.retrain.steps)
    families = {str(name) for name in best}
    task = load_rows(work / "query.jsonl")[0]["task"]
    tasks = {str(row["id"]): row["task"] for row in pool}
    counts = {}
    for name, ids in (*chosen.items(), ("random_k", draws[0])):
        origins = [str(i).split("-copy")[0] for i in ids]
        counts[name] = {
            "planted_and_originals": sum(origin in families for origin in origins),
            "different_samples": len(set(origins)),
            "cosine_above_limit": copies_of_earlier(codes(np.array(ids, dtype=object))),
            "share_of_task": float(np.mean([tasks[str(i)] == task for i in ids])),
        }
    copies = [str(i) for i in tasks if "-copy" in i]
    pairs = [codes(np.array([i, i.split("-copy")[0]], dtype=object)) for i in copies]
    return {
        "pool": len(pool),
        "planted": len(copies),
        "cosine_of_copies": sorted(float(a @ b) for a, b in pairs),
        "chosen": counts,
        "comparison": summarise_arms(losses, K_DIVERSE, cfg.retrain.steps, len(SEEDS)),
        "process": spent,
    }


def means(tasks: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean held-out loss of each arm over the tasks, nats per response token."""
    arms = {
        "loop": [t["loop"]["arms"] for t in tasks.values()],
        "diverse": [t["diverse"]["comparison"]["arms"] for t in tasks.values()],
    }
    return {
        part: {name: float(np.mean([a[name]["mean"] for a in some])) for name in some[0]}
        for part, some in arms.items()
    }


def show(result: dict[str, Any]) -> None:
    """The tables for people."""
    for task, parts in result["tasks"].items():
        loop, diverse = parts["loop"], parts["diverse"]
        print(f"\n{task}: best round {loop['best_round']} ({loop['stopped']})")
        for r in loop["rounds"]:
            share = loop["share_of_task"][f"round_{r['round']}"]
            kept, loss = r["n_kept"], r["query_loss"]
            print(f"  round {r['round']}: {kept} kept, query loss {loss:.4f}, of task {share:.2f}")
        for title, arms in (("loop", loop["arms"]), ("copies", diverse["comparison"]["arms"])):
            for name, arm in arms.items():
                low, high = arm["ci95"] or (float("nan"), float("nan"))
                facts = f"{arm['n']:4d} samples {arm['steps']:4d} steps" if "n" in arm else ""
                print(f"  {title:6s} {name:20s} {arm['mean']:.4f} [{low:.4f}, {high:.4f}] {facts}")
        print(f"  near-copies: {json.dumps(diverse['chosen'])}")
    print("\n" + json.dumps(result["mean_over_tasks"], indent=1))


if __name__ == "__main__":
    main()
