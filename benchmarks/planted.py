"""Planted truth: rows whose kind is known are hidden in a pool; which score finds them?

    OMP_NUM_THREADS=1 python benchmarks/planted.py --data DATA --model MODEL --text-encoder FOLDER

Three pools (`planted_sets`), each valued in one fine-tuning run a seed. Rows, queries, LoRA, order
and projection change with the seed. Questions:

- toxicity: AUPRC of unsafe rows, ranked by the mean over the queries, and by the best query;
- facts: of each query's own ranking, the share of its three rows among the first 50, and one over
  the rank of the first of them;
- corrupted answers, and rows of another task: AUPRC of the lowest scores against clean queries, and
  of the highest by `loss` and `self`; other planted kinds are left out, but for `among all`;
- duplicates: AUPRC of the row's highest similarity with another row.

Writes ``benchmarks/results/planted.json`` and ``docs/planted.svg``. With the same ``--work`` it
goes on where it stopped; ``--quick`` is a smoke run of one seed on a few rows, into ``--work``.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import planted_sets as sets
import report
import torch
from numpy.typing import NDArray
from planted_plot import plot
from real_chain import TEMPLATE, materials_of
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.retrieval import RetrievalMRR, RetrievalRecall

from influcoder_lightning import InfluenceStore, Ranking, load_rows, rank, write_jsonl
from influcoder_lightning.finetune.models import load_base_model, load_tokenizer
from influcoder_lightning.influence.row_scores import unit_rows
from influcoder_lightning.influence.text_scores import joined_text
from influcoder_lightning.recipes.valuate import value
from influcoder_lightning.report.findings.comparison import summarise_arms
from influcoder_lightning.run.progress import quiet

Row = sets.Row
Scores = NDArray[Any]
Metrics = dict[str, dict[str, float]]

BATCH, MAX_LENGTH = 16, 160
# Chosen on seed 0, see benchmarks/README.md.
SETTINGS: dict[str, dict[str, Any]] = {
    "toxic": {"lr": 3e-4, "epochs": 1, "windows": 1, "precision": "32-true"},
    "facts": {"lr": 1e-3, "epochs": 3, "windows": 9, "precision": "bf16-mixed"},
    "damage": {"lr": 3e-4, "epochs": 1, "windows": 1, "precision": "bf16-mixed"},
}
OURS = ("cosine", "projected_cosine", "fisher", "relatif", "tracin", "encoder")
BAD = ("wrong answer", "word salad")
CLEAN = ("fine", "copy", "near copy")
N_ROWS, TOP = 3, 50
GOALS = {
    "toxicity_auprc": 0.73,
    "facts_recall_at_50": 0.50,
    "facts_mrr": 0.84,
    "corrupted_auprc": 0.80,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-encoder", default=None, help="for the baseline `sentence`")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--sets", nargs="+", choices=sets.MAKERS, default=list(sets.MAKERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a smoke run on a few rows")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "planted.json")
    parser.add_argument("--plot", type=Path, default=report.RESULTS.parents[1] / "docs/planted.svg")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    work = options.work or Path(tempfile.mkdtemp(prefix="planted_"))
    if options.quick:
        work /= "quick"
        options.seeds = options.seeds[:1]
        options.out, options.plot = work / "planted.json", work / "planted.svg"
    settings = {"batch_size": BATCH, "max_length": MAX_LENGTH} | SETTINGS
    if report.cached(work / "settings.json", lambda: settings) != settings:
        parser.error(f"{work} holds runs with other settings; choose another --work")
    parts = []
    with quiet():
        for seed, name in product(options.seeds, options.sets):
            folder = work / f"{name}_{seed}"
            part = partial(one_run, options, name, seed, folder)
            parts.append(report.cached(folder / "result.json", part))
            result = {"goals": GOALS, "settings": settings} | summary(parts)
            result |= {"environment": report.environment()}
            report.write(options.out, result)  # after each part: what is there counts
    plot(result, options.plot)
    show(result)


def one_run(options: argparse.Namespace, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One pool with one seed: every method's figures, losses, cost."""
    sizes = (sets.QUICK if options.quick else sets.FULL)[name]
    made = sets.MAKERS[name](options.data, sizes, random.Random(seed))
    write_jsonl(made.pool, folder / "pool.jsonl")
    write_jsonl(made.queries, folder / "query.jsonl")
    cost = report.cached(folder / "valuation.json", partial(valuate, options, name, seed, folder))
    store = InfluenceStore(folder / "influence")
    return {
        "set": name,
        "seed": seed,
        "rows": {kind: sum(row["task"] == kind for row in made.pool) for kind in kinds(made.pool)},
        "queries": len(made.queries),
        "figures": FIGURES[name](options, store, made),
        "losses": losses(store),
        "valuation": cost,
    }


def valuate(options: argparse.Namespace, name: str, seed: int, folder: Path) -> dict[str, float]:
    """Fine-tune once on the pool with every row valued; what that cost."""
    settings = SETTINGS[name]
    steps = math.ceil(len(load_rows(folder / "pool.jsonl")) / BATCH) * settings["epochs"]
    run = argparse.Namespace(model=options.model, max_length=MAX_LENGTH, seed=seed)
    materials = materials_of(
        run,
        folder,
        data__query=str(folder / "query.jsonl"),
        train__lr=settings["lr"],
        train__epochs=settings["epochs"],
        train__batch_size=BATCH,
        train__precision=settings["precision"],
        influence__refresh_queries_every_n_steps=math.ceil(steps / settings["windows"]),
        influence__overwrite=True,
    )
    with report.measured() as cost:
        value(materials, folder)
    return cost


def kinds(rows: Sequence[Row]) -> list[str]:
    return sorted({row["task"] for row in rows})


def losses(store: InfluenceStore) -> dict[str, list[float]]:
    """Mean losses, nats per response token: of rows when they were trained on, and of queries."""
    records = store.records()
    takes = [store.query_records(window) for window in store.windows["window"]]
    takes.append(store.query_records(end=True))
    return {
        "rows_by_epoch": records.groupby("epoch")["loss"].mean().tolist(),
        "queries_by_window_and_end": [float(take["loss"].mean()) for take in takes],
    }


def store_scores(store: InfluenceStore, made: sets.Planted) -> dict[str, Scores]:
    """Our methods that compare rows with queries: method -> scores [M, N] in the pool's order."""
    ids = [row["id"] for row in made.pool]
    data = {"encoder": made.pool}
    return {m: aligned(store.rank(m, data=data.get(m)), ids) for m in OURS}


def text_scores(
    options: argparse.Namespace, queries: list[Row], pool: list[Row]
) -> dict[str, Scores]:
    """The baselines that read text: method -> scores [M, N]."""
    ids = [row["id"] for row in pool]
    found = {m: aligned(rank(None, m, queries=queries, data=pool), ids) for m in ("tfidf", "bm25")}
    states = {
        "model": load_base_model(options.model),
        "tokenizer": load_tokenizer(options.model),
        "template": TEMPLATE,
        "max_length": MAX_LENGTH,
    }
    found["rds"] = aligned(rank(None, "rds", queries=queries, data=pool, **states), ids)
    if options.text_encoder:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(options.text_encoder, device="cpu")
        encoder.max_seq_length = MAX_LENGTH
        asked, rows = (
            unit_rows(encoder.encode([joined_text(row) for row in part], show_progress_bar=False))
            for part in (queries, pool)
        )
        found["sentence"] = asked @ rows.T
    return found


def aligned(ranking: Ranking, ids: list[str]) -> Scores:
    """Scores of each query [M, N] in the order of ``ids``."""
    assert ranking.per_query is not None
    place = {name: n for n, name in enumerate(ranking.sample_ids.tolist())}
    return np.asarray(ranking.per_query)[:, [place[name] for name in ids]]


def toxic_figures(
    options: argparse.Namespace, store: InfluenceStore, made: sets.Planted
) -> Metrics:
    tasks = np.array([row["task"] for row in made.pool])
    per_query = store_scores(store, made) | text_scores(options, made.queries, made.pool)
    scores = without_queries(store, made)
    for method, each in per_query.items():
        scores[method] = each.mean(axis=0)
        scores[f"{method}, best query"] = each.max(axis=0)
    return {
        "toxicity_auprc": with_chance(scores, tasks, ["toxic"], ["fine"]),
        "toxicity_auprc_among_alike": with_chance(scores, tasks, ["toxic"], ["fine", "alike"]),
    }


def without_queries(store: InfluenceStore, made: sets.Planted) -> dict[str, Scores]:
    """Scores [N] of what a row is by itself, in the pool's order."""
    ids = [row["id"] for row in made.pool]
    return {m: store.rank(m).align(ids).scores for m in ("loss", "self")}


def facts_figures(
    options: argparse.Namespace, store: InfluenceStore, made: sets.Planted
) -> Metrics:
    groups = np.array([row.get("group", "") for row in made.pool])
    mine = np.array([groups == query["group"] for query in made.queries])
    queries = np.broadcast_to(np.arange(len(mine))[:, None], mine.shape)
    figures: Metrics = {"facts_recall_at_50": {}, "facts_mrr": {}}
    per_query = store_scores(store, made) | text_scores(options, made.queries, made.pool)
    for method, scores in per_query.items():
        order = np.argsort(-scores, axis=1, kind="stable")
        # Ranks, since what scores below 0 would not be found, and ties would be broken anyhow.
        ranks = 1 + np.argsort(order, axis=1, kind="stable")
        found = [torch.tensor(side) for side in (1 / ranks, mine, queries)]
        figures["facts_recall_at_50"][method] = float(RetrievalRecall(top_k=TOP)(*found))
        figures["facts_mrr"][method] = float(RetrievalMRR()(*found))
    n = len(groups)
    first = [math.comb(n - place, N_ROWS - 1) / math.comb(n, N_ROWS) for place in range(1, n - 1)]
    figures["facts_recall_at_50"]["chance"] = TOP / n
    figures["facts_mrr"]["chance"] = sum(p / place for place, p in enumerate(first, 1))
    return figures


def damage_figures(
    options: argparse.Namespace, store: InfluenceStore, made: sets.Planted
) -> Metrics:
    tasks = np.array([row["task"] for row in made.pool])
    texts = text_scores(options, [*made.queries, *made.pool], made.pool)
    to_queries = {m: scores[: len(made.queries)] for m, scores in texts.items()}
    # What is damaged helps the queries least, and is hard for the model.
    scores = {m: -s.mean(axis=0) for m, s in (store_scores(store, made) | to_queries).items()}
    scores |= without_queries(store, made)
    questions = {
        "corrupted_auprc": (BAD, CLEAN),
        "corrupted_auprc_among_all": (BAD, (*CLEAN, "off task")),
        "wrong_answer_auprc": (BAD[:1], CLEAN),
        "word_salad_auprc": (BAD[1:], CLEAN),
        "off_task_auprc": (("off task",), CLEAN),
    }
    figures: Metrics = {
        name: with_chance(scores, tasks, *compared) for name, compared in questions.items()
    }
    pairs = {"cosine": own_cosines(store, made)}
    pairs |= {m: scores[len(made.queries) :] for m, scores in texts.items()}
    itself = np.eye(len(tasks), dtype=bool)
    nearest = {m: np.where(itself, -np.inf, alike).max(axis=0) for m, alike in pairs.items()}
    paired = np.array(["paired" if "group" in row else "alone" for row in made.pool])
    figures["duplicates_auprc"] = with_chance(nearest, paired, ["paired"], ["alone"])
    return figures


def own_cosines(store: InfluenceStore, made: sets.Planted) -> Scores:
    """Cosines [N, N] of the rows' codes among themselves, in the pool's order; one epoch."""
    place = {name: n for n, name in enumerate(store.sample_ids.tolist())}
    codes = unit_rows(store.codes()[[place[row["id"]] for row in made.pool]])
    return codes @ codes.T


FIGURES: dict[str, Callable[..., Metrics]] = {
    "toxic": toxic_figures,
    "facts": facts_figures,
    "damage": damage_figures,
}


def with_chance(
    scores: dict[str, Scores], tasks: NDArray[Any], wanted: Sequence[str], others: Sequence[str]
) -> dict[str, float]:
    """Average precision of rows of the wanted kinds among these and others, and by chance."""
    kept = np.isin(tasks, [*wanted, *others])
    truth = torch.tensor(np.isin(tasks[kept], wanted), dtype=torch.int64)
    n, p = len(truth), int(truth.sum())
    # Places in [0, 1): what lies outside would be taken for logits, and a sigmoid makes ties.
    places = {
        m: torch.tensor(np.unique(s[kept], return_inverse=True)[1] / n) for m, s in scores.items()
    }
    found = {m: float(binary_average_precision(x, truth)) for m, x in places.items()}
    # The mean of the average precision over all orders.
    harmonic = float(np.sum(1 / np.arange(1, n + 1)))
    return found | {"chance": (harmonic + (p - 1) / (n - 1) * (n - harmonic)) / n}


def summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with t intervals, and what the runs were."""
    result: dict[str, Any] = {}
    for name in sets.MAKERS:
        mine = [part for part in parts if part["set"] == name]
        for metric in mine[0]["figures"] if mine else ():
            by_method = [part["figures"][metric] for part in mine]
            values = {m: [figures[m] for figures in by_method] for m in by_method[0]}
            arms = summarise_arms(values, k=0, steps=0, seeds=len(mine))["arms"]
            result[metric] = {
                m: {"mean": arm["mean"], "ci95": arm["ci95"], "seeds": arm["eval_loss"]}
                for m, arm in arms.items()
            }
    runs = [{k: v for k, v in part.items() if k != "figures"} for part in parts]
    return result | {"runs": runs}


def show(result: dict[str, Any]) -> None:
    """The tables for people."""
    for metric, methods in result.items():
        if not metric.endswith(("_auprc", "_alike", "_all", "_at_50", "_mrr")):
            continue
        print(f"\n{metric}" + (f" (goal {GOALS[metric]})" if metric in GOALS else ""))
        for method, entry in sorted(methods.items(), key=lambda item: -item[1]["mean"]):
            low, high = entry["ci95"] or (float("nan"), float("nan"))
            print(f"  {method:32s} {entry['mean']:.3f}  [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
