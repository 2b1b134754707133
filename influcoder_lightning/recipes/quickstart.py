"""quickstart: the whole story on built-in data with planted truth, without network."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning.data.rows import write_jsonl
from influcoder_lightning.data.skills import SkillData, make_skill_data
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.recipes import pipeline, valuate
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.valuation import valuation_sections
from influcoder_lightning.recipes.quickstart_model import SMOLLM2, model_of, settle, smollm2
from influcoder_lightning.report.press.blocks import Section, Table, Text
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import ADAPTER, CHOSEN, COMPARISON, RANKED, VALUED, read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage

log = logging.getLogger(__name__)


OUTPUTS = (
    *COMPARISON,
    RANKED,
    *CHOSEN,
    Output(
        "planted.json",
        "how the planted rows were ranked",
        facts=lambda path: _facts(read_json(path)),
    ),
    ADAPTER,
    VALUED,
    Output("data", "the built-in rows of this run"),
    Output("model", "the tiny model that was fine-tuned, and its tokenizer"),
)


def run(cfg: Settings, folder: Path) -> float:
    """Make data and model, run the pipeline, hold the ranking against what was planted."""
    check(cfg)
    valuate.check(cfg, folder)
    return _run(cfg, folder)


def check(cfg: Settings) -> None:
    """Refuse what the built-in data cannot be used with.

    Raises:
        ConfigError: a model or data of the user's own, a k that does not fit the pool, or a
            package that is not installed.
    """
    for key in ("model.name", "data.pool", "data.query", "data.eval", "from"):
        if cfg.at(key) is not None:
            raise ConfigError(
                f"recipe=quickstart makes its own data and model, and {key} is given. For yours "
                "say recipe=pipeline (or valuate, select, ...; see influcoder --help)."
            )
    if cfg.quickstart.model == SMOLLM2:
        smollm2()
    k, n = int(require(cfg, "select.k", "quickstart")), int(cfg.quickstart.n_pool)
    if k > n:
        raise ConfigError(f"select.k={k} does not fit quickstart.n_pool={n}; choose 1 to {n}.")


def _run(cfg: Settings, folder: Path) -> float:
    with stage("making up data") as done:
        data = make_data(cfg, folder)
        done.result = f"{len(data.pool)} rows of six skills; queries ask for {data.query_skill!r}"
    cfg = cfg.copy()
    cfg.model.name = model_of(cfg, data, folder / "model")
    for name in ("pool", "query", "eval"):
        cfg.data[name] = str(folder / "data" / f"{name}.jsonl")
    materials = Materials(cfg, "quickstart")
    result = pipeline.steps(materials, folder)
    ranking, comparison = result.ranking, result.comparison
    found = planted(ranking, data, int(cfg.select.k))
    for line in sentences(found, data.query_skill):
        log.info(line)
    with durable_path(folder / "planted.json") as part:
        part.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    title = "Quickstart: which samples teach the skill?"
    page.write(
        folder,
        [
            page.opening(title, materials, page.compared(comparison)),
            _story(cfg, data),
            _planted_section(found, data.query_skill),
            page.comparison_section(comparison),
            page.ranking_section(ranking, materials.pool, result.chosen, _corrupted(ranking, data)),
            *valuation_sections(materials, result.store, ranking, folder),
        ],
        OUTPUTS,
        go_on=True,
    )
    return float(comparison["arms"]["top_k"]["mean"])


def planted(ranking: Ranking, data: SkillData, k: int) -> dict[str, Any]:
    """Where the ranking puts what is known about the rows.

    Percentiles are mean positions in the ranking: 0 is the best sample, 100 the worst.
    """
    place = dict(zip(map(str, ranking.sample_ids.tolist()), ranking.ranks.tolist(), strict=True))
    rows = [row for row in data.pool if row["id"] in place]

    def percentile(ids: list[str]) -> float | None:
        ranks = [(place[name] - 1) / max(1, len(place) - 1) for name in ids]
        return round(100 * float(np.mean(ranks)), 1) if ranks else None

    own = [row for row in rows if row["task"] == data.query_skill]
    top = {str(name) for name in ranking.top_k(k)}
    pairs = [
        (row["id"], row["duplicate_of"])
        for row in own
        if row["duplicate_of"] is not None and row["duplicate_of"] in place
    ]
    sound = [row["id"] for row in own if not row["corrupted"]]
    return {
        "k": k,
        "skill_share_top_k": round(sum(row["id"] in top for row in own) / k, 4),
        "skill_share_best_possible": round(min(k, len(own)) / k, 4),
        "skill_share_chance": round(len(own) / len(rows), 4),
        "percentile_sound": percentile(sound),
        "percentile_corrupted": percentile([row["id"] for row in own if row["corrupted"]]),
        "percentile_other_skills": percentile(
            [row["id"] for row in rows if row["task"] != data.query_skill]
        ),
        "corrupted_in_top_k": sum(row["id"] in top for row in own if row["corrupted"]),
        "n_corrupted": sum(bool(row["corrupted"]) for row in own),
        "duplicate_pairs": len(pairs),
        "duplicate_distance": (
            round(
                100 * float(np.mean([abs(place[a] - place[b]) for a, b in pairs])) / len(place), 1
            )
            if pairs
            else None
        ),
    }


def sentences(found: dict[str, Any], skill: str) -> list[str]:
    """The same for people."""
    lines = [
        f"{found['skill_share_top_k']:.0%} of the top {found['k']} are rows of the query's skill, "
        f"{skill} (chance: {found['skill_share_chance']:.0%}; the most there could be: "
        f"{found['skill_share_best_possible']:.0%})."
    ]
    if found["percentile_corrupted"] is not None and found["percentile_sound"] is not None:
        below = found["percentile_corrupted"] > found["percentile_sound"]
        lines.append(
            f"Rows of {skill} with a wrong response lie at percentile "
            f"{found['percentile_corrupted']:.0f} of the ranking on average, sound ones at "
            f"{found['percentile_sound']:.0f} (0 is best): the ranking "
            f"{'tells' if below else 'does NOT tell'} them apart. "
            f"{found['corrupted_in_top_k']} of {found['n_corrupted']} are in the top "
            f"{found['k']}."
        )
    if found["duplicate_distance"] is not None:
        lines.append(
            f"{found['duplicate_pairs']} pairs of identical rows of {skill} lie "
            f"{found['duplicate_distance']:.1f} % of the ranking apart on average (two rows drawn "
            "at random: 33 %)."
        )
    return lines


def make_data(cfg: Settings, folder: Path) -> SkillData:
    """The built-in rows; writes ``data/*.jsonl`` to the folder."""
    quick = cfg.quickstart
    data = make_skill_data(
        cfg.seed,
        query_skill=quick.skill,
        n_pool=quick.n_pool,
        n_query=quick.n_query,
        n_evaluation=quick.n_eval,
    )
    for name, rows in (("pool", data.pool), ("query", data.query), ("eval", data.evaluation)):
        write_jsonl(rows, folder / "data" / f"{name}.jsonl")
    return data


def _corrupted(ranking: Ranking, data: SkillData) -> dict[str, list[str]]:
    """Rows of the query's skill that are wrong on purpose, by a name for the figure."""
    ranked = set(map(str, ranking.sample_ids.tolist()))  # a short run does not reach every row
    wrong = [row for row in data.pool if row["corrupted"] and row["task"] == data.query_skill]
    name = f"{data.query_skill}, wrong response"
    return {name: [row["id"] for row in wrong if row["id"] in ranked]}


def _story(cfg: Settings, data: SkillData) -> Section:
    model = (
        "A tiny language model was pretrained on general rows that hardly show the skill "
        f"{data.query_skill!r}. It was then"
    )
    if cfg.quickstart.model == SMOLLM2:
        model = "SmolLM2-135M-Instruct, a pretrained chat model, was"
    return Section(
        "What happened here",
        [
            Text(
                f"{model} fine-tuned once, with a LoRA, on a pool of {len(data.pool)} rows of "
                "several skills. While it was trained, the gradient of every sample was compared "
                f"with those of {len(data.query)} query rows of the skill {data.query_skill!r}. "
                "The ranking below is the result. Last, fresh LoRAs were trained on the best, "
                "random and worst rows, to see whether the ranking is right."
            ),
            Text(
                "The rows are made up, so the truth is known: which skill a row belongs to, which "
                f"responses are wrong on purpose ({len(data.corrupted_ids)} of the pool), and "
                f"which rows are repeated ({len(data.duplicate_ids)})."
            ),
        ],
    )


def _planted_section(found: dict[str, Any], skill: str) -> Section:
    rows = [
        [f"{skill}, sound", found["percentile_sound"]],
        [f"{skill}, wrong response", found["percentile_corrupted"]],
        ["all other skills", found["percentile_other_skills"]],
    ]
    return Section(
        "Does the ranking find what was planted?",
        [
            *(Text(line) for line in sentences(found, skill)),
            Table(["kind of row", "mean percentile (0 = best)"], rows),
        ],
    )


def _facts(found: dict[str, Any]) -> Facts:
    return {
        "planted rows": f"{found['skill_share_top_k']:.0%} of the top {found['k']} are of the "
        f"queries' skill (chance: {found['skill_share_chance']:.0%})"
    }


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=lambda folder: page.OWN_DATA,
    settle=settle,
    trains=True,
    reuse=valuate.REUSE,
)
