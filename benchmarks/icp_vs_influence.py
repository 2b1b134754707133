"""In-context probing against influence on the same samples: do they agree, and which one selects?

    OMP_NUM_THREADS=1 python benchmarks/icp_vs_influence.py --data DATA --model MODEL --work WORK

After arXiv 2407.12259: for each of three tasks a pool of 500, 100 of them of the task; queries of
the task (in domain) and of gsm8k (out of domain). The model is warmed up by one epoch over the pool
and every method values that one state of it. Prints the agreement of all methods and the held-out
loss after retraining on what each selects, and writes ``results/icp_vs_influence.json``.

With the same ``--work`` it goes on where it stopped; ``--only TASK`` lets several processes share
the tasks. ``--quick`` runs everything on a few rows and tells what the whole would cost.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import real_chain
import report
from icp_scores import CODE_DIM, staged, value
from icp_tables import show

from influcoder_lightning import Ranking, load_rows, select, write_jsonl
from influcoder_lightning.influence.agreement import agreement, pair
from influcoder_lightning.recipes.arms import run_arms
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.run.progress import quiet

TASKS, SEEDS = real_chain.TASKS, real_chain.SEEDS
SELECTING = ("icp", "inner product", "codes", "text tower")
QUICK = {"pool": 40, "queries": 3, "queries_out": 2, "n_eval": 6, "steps": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-encoder", default=None)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--pool", type=int, default=500, help="a fifth of them of the task")
    parser.add_argument("--queries", type=int, default=25, help="of the task")
    parser.add_argument("--queries-out", type=int, default=10, help="of gsm8k")
    parser.add_argument("--n-eval", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-5, help="of the warm-up")
    parser.add_argument("--retrain-lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=20, help="of every retrained arm")
    parser.add_argument("--max-length", type=int, default=256, help="in training; probing: 1,024")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TASKS, help="one task; to run several at once")
    parser.add_argument("--quick", action="store_true", help="a smoke run of one task")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "icp_vs_influence.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    whole = argparse.Namespace(**vars(options))
    work = options.work or Path(tempfile.mkdtemp(prefix="icp_vs_influence_"))
    if options.quick:
        vars(options).update(QUICK)
        work /= "quick"
    settings = settings_of(options)
    if report.cached(work / "settings.json", lambda: settings) != settings:
        parser.error(f"{work} holds a run with other settings; choose another --work")

    chosen = [options.only] if options.only else list(TASKS)
    tasks = {}
    with quiet():
        for task in chosen[:1] if options.quick else chosen:
            folder = work / task.split("/")[1]
            tasks[task] = report.cached(
                folder / "result.json",
                lambda task=task, folder=folder: one_task(options, task, folder),
            )
    show(tasks)
    if options.quick:
        minutes = estimate(next(iter(tasks.values()))["cpu_seconds"], options, whole) / 60
        print(f"\nEstimate: {minutes:.0f} CPU minutes a task, {minutes * len(TASKS):.0f} in all")
    elif not options.only:
        found = {"settings": settings, "tasks": tasks, "environment": report.environment()}
        report.write(options.out, found)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on, as JSON gives it back."""
    numbers = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
    del numbers["quick"]
    encoder = options.text_encoder and Path(options.text_encoder).name
    return numbers | {
        "k": k_of(options),
        "seeds": list(SEEDS),
        "code_dim": CODE_DIM,
        "text_encoder": encoder,
    }


def k_of(options: argparse.Namespace) -> int:
    """As many as the pool has rows of the task."""
    return int(options.pool) // 5


def one_task(options: argparse.Namespace, task: str, folder: Path) -> dict[str, Any]:
    """Agreement and retrained arms of one task."""
    write_splits(options, task, folder)
    keys = {"data__eval": str(folder / "eval.jsonl"), "train__lr": options.retrain_lr}
    materials = real_chain.materials_of(options, folder, **keys)
    pool, k = materials.pool.identified(), k_of(options)
    seconds: dict[str, float] = {}
    scores = value(options, materials, pool, folder, seconds)
    ids = [row["id"] for row in pool]
    rankings = {
        kind: {name: Ranking(ids, values) for name, values in found.items()}
        for kind, found in scores.items()
    }
    arms: dict[str, Any] = {
        f"top_k {name}": [rankings["in domain"][name].top_k(k)] * len(SEEDS) for name in SELECTING
    }
    chance = Ranking(ids, np.zeros(len(ids)))
    arms["random_k"] = [select(chance, "random", k, seed=seed) for seed in SEEDS]
    arms["full"] = [ids] * len(SEEDS)
    losses: dict[str, list[float]] = {}
    for arm, chosen in arms.items():
        losses |= staged(
            folder / f"arm_{arm}.json",
            lambda arm=arm, chosen=chosen: run_arms(
                {arm: chosen}, materials, seeds=SEEDS, steps=options.steps
            ),
            seconds,
            "retraining",
        )
    of_task = {row["id"] for row in pool if row["task"] == task}
    kept = ("spearman", "kendall", "overlap", "bottom_overlap", "binned_by", "bins")
    return {
        "agreement": {
            kind: {
                f"{a} | {b}": {
                    key: value
                    for key, value in agreement(pair(found[a], found[b]), ks=[k // 2, k]).items()
                    if key in kept and (key[:3] != "bin" or a == "icp")
                }
                for a, b in combinations(found, 2)
            }
            for kind, found in rankings.items()
        },
        "share_of_task_in_top_k": {
            name: float(np.mean([i in of_task for i in ranking.top_k(k)]))
            for name, ranking in rankings["in domain"].items()
        },
        "share_of_task": len(of_task) / len(ids),
        "mean_icp": {kind: float(r["icp"].scores.mean()) for kind, r in rankings.items()},
        "comparison": summarise_arms(losses, k, options.steps, len(SEEDS)),
        "cpu_seconds": seconds,
    }


def write_splits(options: argparse.Namespace, task: str, folder: Path) -> None:
    """Pool, queries in and out of the domain, and evaluation rows, none of them twice."""
    rng = random.Random(options.seed)
    bbh, gsm8k, alpaca = (
        unique(load_rows(options.data / f"{name}.jsonl"))
        for name in ("bbh", "gsm8k", "alpaca_gpt4")
    )
    own = [row for row in bbh if row["task"] == task]
    others = [row for row in bbh if row["task"] != task]
    for rows in (own, others, gsm8k, alpaca):
        rng.shuffle(rows)
    n, n_out, n_eval, k = options.queries, options.queries_out, options.n_eval, k_of(options)
    third = (options.pool - k) // 3
    pool = own[n + n_eval : n + n_eval + k]
    pool += gsm8k[n_out : n_out + third] + alpaca[:third] + others[: options.pool - k - 2 * third]
    # Shares of few queries are often equal, and ties go by position: it must mean nothing.
    rng.shuffle(pool)
    write_jsonl(own[:n], folder / "query_in.jsonl")
    write_jsonl(gsm8k[:n_out], folder / "query_out.jsonl")
    write_jsonl(own[n : n + n_eval], folder / "eval.jsonl")
    write_jsonl(pool, folder / "pool.jsonl")


def unique(rows: list[Any]) -> list[Any]:
    """Rows of which no other has the text."""
    return list({(row["prompt"], row["response"]): row for row in rows}.values())


def estimate(
    seconds: dict[str, float], quick: argparse.Namespace, whole: argparse.Namespace
) -> float:
    """CPU seconds of a task, from those of the smoke run."""
    rows = whole.pool / quick.pool
    growth = {
        "warm-up": rows,
        "gradients and towers": rows,
        "icp in domain": rows * whole.queries / quick.queries,
        "icp out of domain": rows * whole.queries_out / quick.queries_out,
        "retraining": whole.steps / quick.steps,
    }
    return sum(seconds[stage] * factor for stage, factor in growth.items())


if __name__ == "__main__":
    main()
