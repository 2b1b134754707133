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
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import real_chain
import report

from influcoder_lightning import Ranking, extract_features, select
from influcoder_lightning.data import load_rows, write_jsonl
from influcoder_lightning.finetune import (
    load_adapter,
    load_base_model,
    load_model,
    steps_of_epochs,
    train,
)
from influcoder_lightning.influence import rank
from influcoder_lightning.influence.agreement import agreement, pair
from influcoder_lightning.influence.icp import icp_ranking
from influcoder_lightning.probing.prober import InContextProber
from influcoder_lightning.recipes.compare import run_arms
from influcoder_lightning.recipes.run_folder import plain
from influcoder_lightning.report import summarise_arms

log = logging.getLogger(__name__)
TASKS, SEEDS = real_chain.TASKS, real_chain.SEEDS
KINDS = ("in domain", "out of domain")
SELECTING = ("icp", "inner product", "codes", "text tower")
# 512, the default, would hold the gradients of 500 samples without loss and show nothing.
CODE_DIM = 64
QUICK = {"pool": 40, "queries": 3, "queries_out": 2, "n_eval": 6, "steps": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-encoder", default=None)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--pool", type=int, default=500, help="a fifth of them of the task")
    parser.add_argument("--queries", type=int, default=30, help="of the task")
    parser.add_argument("--queries-out", type=int, default=15, help="of gsm8k")
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
    work = options.work or Path(tempfile.mkdtemp(prefix="icp_vs_influence_"))
    chosen = (options.only,) if options.only else TASKS
    whole = argparse.Namespace(**vars(options))
    if options.quick:
        vars(options).update(QUICK)
        work, chosen = work / "quick", chosen[:1]

    tasks = {}
    for task in chosen:
        folder = work / task.split("/")[1]
        folder.mkdir(parents=True, exist_ok=True)
        tasks[task] = report.cached(
            folder / "result.json", lambda task=task, folder=folder: one_task(options, task, folder)
        )
    if options.quick:
        minutes = estimate(tasks[chosen[0]]["cpu_seconds"], options, whole) / 60
        print(f"\nEstimate: {minutes:.0f} CPU minutes a task, {minutes * len(TASKS):.0f} in all")
    elif not options.only:
        settings = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
        result = {
            "settings": settings | {"k": k_of(options), "seeds": SEEDS, "code_dim": CODE_DIM},
            "tasks": tasks,
            "environment": report.environment(),
        }
        report.write(options.out, result)
    show(tasks)


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
    model = load_adapter(load_base_model(materials.cfg.model.name), adapter)
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
    model = load_model(cfg.model.name, plain(cfg.lora), cfg.seed)
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


def show(tasks: dict[str, Any]) -> None:
    """Markdown tables for people."""
    names = [task.split("/")[1] for task in tasks]
    k = next(iter(tasks.values()))["comparison"]["k"]
    print(f"\n| agreement: Spearman (top {k} in common) | " + " | ".join(names) + " |")
    print("|---|" + "--:|" * len(names))
    for kind in KINDS:
        for both in next(iter(tasks.values()))["agreement"][kind]:
            cells = [cell(result["agreement"][kind][both], k) for result in tasks.values()]
            print(f"| {kind}: {both.replace(' | ', ', ')} | " + " | ".join(cells) + " |")
    print("\n| icp bins against inner product: overlap (n) | " + " | ".join(names) + " |")
    print("|---|" + "--:|" * len(names))
    for kind in KINDS:
        found = [r["agreement"][kind]["icp | inner product"]["bins"] for r in tasks.values()]
        for label in found[0]:
            cells = [
                "-"
                if not bins[label]["n"]
                else f"{bins[label]['overlap']:.2f} ({bins[label]['n']})"
                for bins in found
            ]
            print(f"| {kind}: {label} | " + " | ".join(cells) + " |")
    print("\n| held-out loss (95 % interval) | " + " | ".join(names) + " |")
    print("|---|" + "--:|" * len(names))
    for arm in next(iter(tasks.values()))["comparison"]["arms"]:
        entries = [result["comparison"]["arms"][arm] for result in tasks.values()]
        cells = [
            f"{e['mean']:.3f}" + (" ({:.3f} to {:.3f})".format(*e["ci95"]) if e["ci95"] else "")
            for e in entries
        ]
        print(f"| {arm} | " + " | ".join(cells) + " |")
    for task, result in tasks.items():
        shares = ", ".join(f"{m} {s:.2f}" for m, s in result["share_of_task_in_top_k"].items())
        print(
            f"\n{task}: of the task among the top {k} (chance {result['share_of_task']:.2f}): {shares}"
        )
        spent = ", ".join(f"{stage} {value:.0f}" for stage, value in result["cpu_seconds"].items())
        print(f"mean icp {result['mean_icp']}; CPU seconds: {spent}")


def cell(found: dict[str, Any], k: int) -> str:
    """Rank correlation and overlap of a pair."""
    rho = "-" if found["spearman"] is None else f"{found['spearman']:.2f}"
    return f"{rho} ({found['overlap'][str(k)]:.2f})"


if __name__ == "__main__":
    main()
