"""Which scores predict what retraining does? Ours, baselines and two other tools, by LDS.

    python benchmarks/lds.py --data DATA --model MODEL --text-encoder FOLDER \
        --bergson PYTHON --kronfluence PYTHON --work FOLDER

100 subset models (50 half-subsets of 240 real rows x 2 seeds), 40 held-out bbh queries; our scores
from three further fine-tuning runs with seeds of their own. MODEL is a small Llama; PYTHON the
interpreter of an environment in which the tool is installed (left out: without that tool). In the
same work folder an interrupted benchmark goes on. ``--queries`` asks the same models about rows of
another source, without the other tools. ``--set built-in`` does it on the quickstart's
rows and tiny model, without the other tools. Prints a table and writes
``benchmarks/results/lds.json`` (``lds_built_in.json``).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import report
from lds_methods import (
    Entry,
    baselines,
    plain_and_valued_seconds,
    ranked,
    rival,
    uncompressed,
    unseen_tower,
    valuations,
    write_work,
)
from lds_sets import Study, built_in, real

from influcoder_lightning.ids import as_id_array
from influcoder_lightning.recipes import lds_removal
from influcoder_lightning.recipes.lds import train_models
from influcoder_lightning.recipes.subset_models import settings_of
from influcoder_lightning.studies.retraining.lds import (
    agreement_interval,
    lds_table,
    mean_ceiling,
    seed_agreement,
)
from influcoder_lightning.studies.retraining.retraining import Job, RetrainedModels
from influcoder_lightning.studies.retraining.subsets import draw_subset
from influcoder_lightning.studies.retraining.truth import Truth

DEFAULT = "fisher"  # of the recipes; `InfluenceStore.rank` without a method is `cosine`
OURS = ("fisher", "relatif", "cosine", "projected_cosine", "tracin", "less", "unrolled", "encoder")
SUBSET_SEEDS, VALUATION_SEEDS = (1, 2), (0, 3, 4)
REMOVED = (0.01, 0.05, 0.1, 0.3)
RIVALS = {
    "bergson": ("cosine", "trackstar", "trackstar_32", "ekfac"),
    "kronfluence": ("ekfac",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=("real", "built-in"), default="real")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--text-encoder", default=None)
    parser.add_argument("--bergson", default=None)
    parser.add_argument("--kronfluence", default=None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--queries", choices=("bbh", "gsm8k", "alpaca_gpt4"), default="bbh")
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--window", type=int, default=None, help="steps; default: an epoch")
    parser.add_argument("--removal", action="store_true", help="removal curves too")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    is_real = options.set == "real"
    if is_real:
        study = real(options.data, options.model, options.work, options.queries)
    else:
        study = built_in(options.work)
    models, truth = retrained(study, options)
    entries = collect(study, truth, options)
    result = table(truth, entries)
    if options.removal:
        result["removal"] = removal(study, models, entries, options)
    result |= {"settings": settings(options), "environment": report.environment()}
    name = "lds.json" if is_real else "lds_built_in.json"
    if options.queries != "bbh":
        name = f"lds_{options.queries}.json"
    report.write(options.out or report.RESULTS / name, result)
    show(result)


def retrained(study: Study, options: argparse.Namespace) -> tuple[RetrainedModels, Truth]:
    """The ground truth: every subset, trained with every seed."""
    materials = study.materials(lds__processes=options.processes)
    pool, query = materials.pool, materials.query
    assert query is not None
    models = RetrainedModels(study.work / "models", settings_of(materials), query.fingerprint())
    subsets = [draw_subset(len(pool), 0.5, i, 0) for i in range(options.subsets)]
    jobs = [Job(tuple(subset.tolist()), seed) for subset in subsets for seed in SUBSET_SEEDS]
    train_models(models, jobs, materials, "subset models")
    ids, query_ids = as_id_array(pool.ids), as_id_array(query.ids)
    return models, Truth.read(models, subsets, SUBSET_SEEDS, ids, query_ids)


def collect(study: Study, truth: Truth, options: argparse.Namespace) -> dict[str, Entry]:
    """Scores of every method."""
    main_queries = options.queries == "bbh"
    stores = valuations(study, list(VALUATION_SEEDS), options.window)
    alone, valued = report.cached(
        study.runs / "seconds.json",
        lambda: plain_and_valued_seconds(study, VALUATION_SEEDS[0], options.window),
    )
    first = stores[VALUATION_SEEDS[0]]
    data = study.materials().pool.identified()
    entries = {}
    for name in OURS:
        runs, seconds = zip(
            *(ranked(store, truth, name, data=data) for store in stores.values()), strict=True
        )
        per_row = first.path.stat().st_size / len(first.sample_ids)
        n_bytes = per_row * len(first.sample_ids) / len(truth.sample_ids)
        extra = valued - alone + float(np.mean(seconds))
        entries[name] = Entry(np.stack(runs), "ours", extra, n_bytes)
    if main_queries:
        whole = [uncompressed(study, truth, seed, options.window) for seed in VALUATION_SEEDS]
        n_weights = int((first.layers.out_features * first.layers.in_features).sum())
        rows = len(first.sample_ids) / len(truth.sample_ids)
        entries["cosine, uncompressed gradients"] = Entry(
            np.stack(whole), "ours", float("nan"), 4 * n_weights * rows
        )
    entries |= baselines(study, truth, first, options.text_encoder)
    if main_queries and options.set == "real":
        entries |= unseen_tower(study, truth, options.window, options.text_encoder)
        entries |= rivals(study, stores, options)
    return entries


def rivals(study: Study, stores: dict[int, Any], options: argparse.Namespace) -> dict[str, Entry]:
    """The other tools, on the checkpoint at the end of each of our runs."""
    entries = {}
    for tool, methods in RIVALS.items():
        python = getattr(options, tool)
        for method in methods if python else ():
            runs, facts = [], []
            for seed, store in stores.items():
                folder = study.work / f"rivals_{seed}"
                write_work(study, store, folder)
                logging.info("%s %s, seed %d", tool, method, seed)
                scores, said = rival(python, tool, method, folder)
                runs.append(scores)
                facts.append(said)
            seconds = float(np.mean([said["seconds"] for said in facts]))
            n_bytes = float(facts[0]["bytes_per_sample"])
            entries[f"{tool} {method}"] = Entry(np.stack(runs), "peer", seconds, n_bytes)
    return entries


def table(truth: Truth, entries: dict[str, Entry]) -> dict[str, Any]:
    """The rows of the result, best first."""
    scores = lds_table(truth, {name: entry.scores for name, entry in entries.items()})
    agreement = float(seed_agreement(truth).mean())
    rows = []
    for name, score in sorted(scores.items(), key=lambda pair: -pair[1].mean):
        entry = entries[name]
        row: dict[str, Any] = {
            "name": name,
            "source": entry.source,
            "lds": score.mean,
            "ci95": list(score.ci95),
            "aggregated": score.aggregated,
            "seconds": None if np.isnan(entry.seconds) else entry.seconds,
            "bytes_per_sample": entry.bytes_per_sample,
            "runs": len(entry.scores),
        }
        for other in (DEFAULT, "cosine"):
            if name != other:
                mean, low, high = score.behind[other]
                row[f"{other}_minus_this"] = {"mean": mean, "ci95": [low, high]}
        rows.append(row)
    return {
        "seed_agreement": agreement,
        "seed_agreement_ci95": list(agreement_interval(truth)),
        "ceiling": mean_ceiling(agreement, truth.losses.shape[1]),
        "default": DEFAULT,
        "rows": rows,
    }


def removal(
    study: Study, models: RetrainedModels, entries: dict[str, Entry], options: argparse.Namespace
) -> dict[str, Any]:
    """What the queries lose without the samples that score best."""
    materials = study.materials(lds__processes=options.processes)
    n = len(materials.pool)
    scores = {name: entries[name].scores[0].mean(axis=0) for name in (DEFAULT,)}
    plan = lds_removal.plan(scores, n, REMOVED, SUBSET_SEEDS)
    jobs = lds_removal.jobs(plan, n, SUBSET_SEEDS)
    train_models(models, jobs, materials, "removal models")
    return lds_removal.curves(models, plan, n, SUBSET_SEEDS)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "set": options.set,
        "queries": options.queries,
        "subsets": options.subsets,
        "share": 0.5,
        "subset_model_seeds": SUBSET_SEEDS,
        "valuation_seeds": VALUATION_SEEDS,
        "window": options.window,
    }


def show(result: dict[str, Any]) -> None:
    low, high = result["seed_agreement_ci95"]
    print(f"agreement of two seeds {result['seed_agreement']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"ceiling against the mean of the seeds {result['ceiling']:.3f}")
    print(f"{'':36s}{'LDS':>7s}{'95 %':>18s}{'agg.':>7s}{'seconds':>9s}{'bytes':>11s}")
    for row in result["rows"]:
        low, high = row["ci95"]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        interval = f"[{low:.3f}, {high:.3f}]"
        print(
            f"{row['name']:36s}{row['lds']:7.3f}{interval:>18s}{row['aggregated']:7.3f}"
            f"{seconds:>9s}{row['bytes_per_sample']:11,.0f}"
        )
    for name, curve in result.get("removal", {}).items():
        points = ", ".join(f"{p['share']:.0%} {p['mean']:+.4f}" for p in curve)
        print(f"without the best by {name}: {points}")


if __name__ == "__main__":
    main()
