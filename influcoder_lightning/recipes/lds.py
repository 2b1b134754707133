"""lds: do the scores predict what retraining on subsets really does to the queries?"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path
from influcoder_lightning.ids import as_id_array
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import available_methods, get_method
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes import lds_removal, valuate
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.lds import lds_headline, lds_sections
from influcoder_lightning.recipes.subset_models import StartTraining, settings_of
from influcoder_lightning.report.press.blocks import Text
from influcoder_lightning.run.base_model import base_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import AS_TABLE, FIGURES, MODELS, read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import locate, require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.stages import stage
from influcoder_lightning.spreadsheet import as_cell
from influcoder_lightning.studies.retraining.lds import (
    agreement_interval,
    lds_table,
    mean_ceiling,
    seed_agreement,
)
from influcoder_lightning.studies.retraining.retraining import Job, RetrainedModels
from influcoder_lightning.studies.retraining.score_matrix import load_matrix
from influcoder_lightning.studies.retraining.subsets import draw_subset
from influcoder_lightning.studies.retraining.truth import Truth
from influcoder_lightning.valuation.fingerprint import as_kept
from influcoder_lightning.valuation.valuation import library_versions

log = logging.getLogger(__name__)


OUTPUTS = (
    Output("lds.json", FIGURES, facts=lambda path: _facts(read_json(path))),
    Output("lds.csv", AS_TABLE),
    MODELS,
)


def run(cfg: Settings, folder: Path) -> float:
    """Write ``lds.json``, ``lds.csv`` and a report; returns ``1 - LDS`` of the first.

    Every trained LoRA is kept in ``models/`` with its losses; the same command in the same folder
    goes on with the others.
    """
    _check(cfg)
    materials = Materials(cfg, "lds")
    pool, query = materials.pool, materials.query
    assert query is not None
    if len(set(map(str, pool.ids))) < len(pool):
        raise ConfigError("recipe=lds needs a pool without repeated ids: subsets are of samples.")
    models = RetrainedModels(
        Path(cfg.lds.models) if cfg.lds.models else folder / "models",
        settings_of(materials),
        query.fingerprint(),
    )
    store = _store(materials, folder)
    seeds = [int(seed) for seed in cfg.lds.seeds]
    subsets = [
        draw_subset(len(pool), cfg.lds.share, i, cfg.lds.subset_seed)
        for i in range(cfg.lds.n_subsets)
    ]
    train_models(
        models,
        [Job(tuple(subset.tolist()), seed) for subset in subsets for seed in seeds],
        materials,
        "subset models",
    )
    ids, query_ids = as_id_array(pool.ids), as_id_array(query.ids)
    truth = Truth.read(models, subsets, seeds, ids, query_ids)
    with stage("scoring by each method") as done:
        scores = _scores(materials, store, truth)
        done.result = ", ".join(scores)
    result = summary(truth, scores)
    log.info("two seeds of the same subsets agree at %.3f", result["seed_agreement"])
    for row in result["rows"]:
        log.info("LDS %6.3f [%.3f, %.3f]  %s", row["lds"], *row["ci95"], row["name"])
    methods = list(cfg.lds.removal_methods or list(scores)[:1])
    if cfg.lds.removal:
        rankings = {name: scores[name].mean(axis=0) for name in methods}
        plan = lds_removal.plan(rankings, len(pool), plain(cfg.lds.removal), seeds)
        train_models(models, lds_removal.jobs(plan, len(pool), seeds), materials, "removal models")
        result["removal"] = lds_removal.curves(models, plan, len(pool), seeds)
    _write(result, cfg, folder, materials)
    return 1 - float(result["rows"][0]["lds"])


def train_models(models: RetrainedModels, jobs: list[Job], materials: Materials, what: str) -> None:
    """Train what is not trained yet, with progress."""
    cfg = materials.cfg
    todo = sum(models.known(job) is None for job in dict.fromkeys(jobs))
    with stage(f"training {what}", todo, "models") as done:
        processes = int(cfg.parallel.jobs or cfg.lds.processes or os.cpu_count() or 1)
        models.train(jobs, StartTraining(plain(cfg)), processes, lambda n, _: done(n))
        done.result = f"{todo:,} models, {len(set(jobs)) - todo:,} were there before"


def summary(truth: Truth, scores: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """LDS of each method [M, N] beside what two seeds know of each other."""
    table = lds_table(truth, scores)
    first = next(iter(scores))
    agreement = float(seed_agreement(truth).mean())
    n_seeds = truth.losses.shape[1]
    rows = []
    for name, score in table.items():
        row: dict[str, Any] = {
            "name": name,
            "lds": score.mean,
            "ci95": list(score.ci95),
            "aggregated": score.aggregated,
        }
        if name != first:
            mean, low, high = table[name].behind[first]
            row["first_minus_this"] = {"mean": mean, "ci95": [low, high]}
        rows.append(row)
    return {
        "seed_agreement": agreement,
        "seed_agreement_ci95": list(agreement_interval(truth)),
        "ceiling": mean_ceiling(agreement, n_seeds),
        "n_samples": len(truth.sample_ids),
        "n_queries": len(truth.query_ids),
        "n_subsets": len(truth.members),
        "seeds_per_subset": n_seeds,
        "rows": rows,
    }


def _check(cfg: Settings) -> None:
    for key in ("data.pool", "data.query"):
        require(cfg, key, "lds")
    lds = cfg.lds
    if lds.n_subsets < 3:
        raise ConfigError(f"lds.n_subsets={lds.n_subsets}: three subsets at least can be ordered.")
    if not 0 < lds.share < 1:
        raise ConfigError(f"lds.share={lds.share} leaves nothing in a subset, or nothing out.")
    seeds = list(lds.seeds)
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"lds.seeds={seeds}: give two at least, each once; they bound the score.")
    if cfg.seed in seeds:
        raise ConfigError(
            f"lds.seeds={seeds} holds the valuation's own seed={cfg.seed}: models that start from "
            "its very LoRA would flatter it. Choose others."
        )
    if not lds.methods and not lds.scores:
        raise ConfigError("lds.methods is empty, and so is lds.scores: there is nothing to judge.")
    if unknown := sorted(set(lds.methods) - set(available_methods())):
        raise ConfigError(
            f"lds.methods: {unknown[0]!r} is no method; known are {', '.join(available_methods())}."
        )
    if both := sorted(set(lds.methods) & set(lds.scores or {})):
        raise ConfigError(f"lds.scores names {both[0]!r}, which is a method; choose another name.")
    judged = [*lds.methods, *(lds.scores or {})]
    if unknown := [name for name in lds.removal_methods or () if name not in judged]:
        raise ConfigError(f"lds.removal_methods: {unknown[0]} is none of {', '.join(judged)}.")
    if wrong := [share for share in lds.removal if not 0 < share < 1]:
        raise ConfigError(f"lds.removal: {wrong[0]} is no share between 0 and 1.")


def _store(materials: Materials, folder: Path) -> InfluenceStore:
    """The store of `from`, or of a valuation run in this folder, which is done once."""
    cfg = materials.cfg
    if cfg["from"] is not None:
        store = InfluenceStore(locate(Path(cfg["from"]), "influence"))
        kept = store.attributes["config"].get("depends_on", {})  # not of frozen models
        if other := [k for k, v in materials.model_content.items() if kept.get(k, v) != v]:
            raise ConfigError(
                f"from={cfg['from']} was valued with another {' and '.join(other)} than "
                f"model.name={cfg.model.name} holds now. Give its model, or value again."
            )
        return store
    assert materials.query is not None
    settings = settings_of(materials) | {"seed": cfg.seed, "influence": plain(cfg.influence)}
    settings["query"] = materials.query.fingerprint()
    done = folder / "valued.json"
    if done.exists():
        before, now = json.loads(done.read_bytes()), json.loads(json.dumps(settings))
        if before != as_kept(now, before, done):
            raise ConfigError(
                f"{folder} holds a valuation with other settings; choose another hydra.run.dir."
            )
        log.info("the valuation of %s is used again", folder)
        return InfluenceStore(folder / "influence")
    materials.cfg.influence.overwrite = True  # an interrupted valuation is done again
    store = valuate.value(materials, folder)
    with durable_path(done) as part:
        part.write_text(json.dumps(settings), encoding="utf-8")
    return store


def _scores(
    materials: Materials, store: InfluenceStore, truth: Truth
) -> dict[str, NDArray[np.float64]]:
    cfg, scores = materials.cfg, {}
    model = None
    for name in cfg.lds.methods:
        options: dict[str, Any] = {}
        method = get_method(name)
        if method.requires("model"):
            model = model or base_model(cfg)
            template = cfg.icp.template if name == "icp" else cfg.model.template
            given = {"tokenizer": materials.tokenizer, "template": template}
            refused = method.refused(given)
            options = {key: value for key, value in given.items() if key not in refused}
            options["model"] = model
        ranking: Ranking = store.rank(name, data=materials.pool.identified(), **options)
        scores[name] = truth.scores_of(ranking)
    for name, path in (cfg.lds.scores or {}).items():
        scores[str(name)] = load_matrix(Path(path), truth)
    return scores


def _write(result: dict[str, Any], cfg: Settings, folder: Path, materials: Materials) -> None:
    settings = settings_of(materials) | {"lds": plain(cfg.lds), "seed": cfg.seed}
    content = result | {"settings": settings, "versions": library_versions()}
    with durable_path(folder / "lds.json") as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with durable_path(folder / "lds.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "lds", "low", "high", "aggregated"])
        for row in result["rows"]:
            writer.writerow([as_cell(row["name"]), row["lds"], *row["ci95"], row["aggregated"]])
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    intro = (
        f"{result['n_subsets']} random subsets of {cfg.lds.share:.0%} of {result['n_samples']} "
        f"samples, {result['seeds_per_subset']} models each, trained for as many epochs as the "
        f"valuation run; {result['n_queries']} queries. LDS is the rank correlation over subsets "
        "between the sum of the members' scores and what training on them did to a query's loss, "
        "mean over queries; in brackets 95 % intervals of a bootstrap over queries and subsets."
    )
    head = page.opening(
        "Do the scores predict retraining?",
        materials,
        [*lds_headline(result), Text(intro, terms=["LDS"])],
        ranked=False,
    )
    page.write(folder, [head, *lds_sections(result)], OUTPUTS)


def _facts(found: dict[str, Any]) -> Facts:
    facts = {"LDS": "rank correlation with retraining, 95 % interval"}
    for row in sorted(found["rows"], key=lambda row: -row["lds"]):
        facts[f"  {row['name']}"] = "{:.3f}  [{:.3f}, {:.3f}]".format(row["lds"], *row["ci95"])
    return facts | {"two seeds agree": f"{found['seed_agreement']:.3f}"}


def _use_the_best(folder: Path) -> str:
    best = max(read_json(folder / "lds.json")["rows"], key=lambda row: row["lds"])
    return f"{page.OWN_DATA} rank.method={best['name']}"


RECIPE = Recipe(run, OUTPUTS, next_command=_use_the_best, goes_on=True)
