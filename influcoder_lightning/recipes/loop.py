"""loop: value, choose and retrain again and again, until it no longer helps; then compare."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from influcoder_lightning.data.rows import write_jsonl
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.ids import SampleId, as_id_array
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence.registry import get_method
from influcoder_lightning.recipes.arms import run_arms
from influcoder_lightning.recipes.loop_round import (
    Rounds,
    first_choice,
    held_out_queries,
    subset,
)
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.loop import (
    LoopResult,
    loop_chart,
    loop_sections,
    verdict,
    write_loop,
)
from influcoder_lightning.recipes.retrain import retrain_steps
from influcoder_lightning.report.findings.comparison import Comparison, summarise_arms
from influcoder_lightning.report.findings.headline import headline_of
from influcoder_lightning.run.finished_parts import read_part, write_part
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import (
    ADAPTER,
    AS_TABLE,
    CHOSEN,
    FIGURES,
    MODELS,
    arm_facts,
    read_json,
)
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import SELECTED, require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.split import Split
from influcoder_lightning.selection.selection import select

log = logging.getLogger(__name__)
# What decides when to stop, and what is compared, may change without doing a round again.
_RULE = ("rounds", "min_gain", "patience")


OUTPUTS = (
    Output("loop.json", FIGURES, facts=lambda path: _facts(read_json(path))),
    Output("loop.csv", AS_TABLE),
    *CHOSEN,
    ADAPTER,
    MODELS,
)


def run(cfg: Settings, folder: Path) -> float:
    """Write ``round_<r>/``, ``selected.jsonl``, ``adapter/``, ``loop.*`` and a report.

    Each round and each arm is kept when it is done; the same command in the same folder goes on
    with the others. Returns the mean held-out loss of the loop's choice.
    """
    check(cfg)
    materials = Materials(cfg, "loop")
    materials.require_evaluation()  # before anything is trained
    rounds, stopped = run_rounds(materials, folder)
    chosen = best_round([r["query_loss"] for r in rounds], cfg.loop.min_gain)
    shutil.copyfile(folder / f"round_{chosen}" / SELECTED, folder / SELECTED)
    log.info(
        "the loop stops: %s. Best is round %d: %d samples",
        stopped,
        chosen,
        rounds[chosen]["n_kept"],
    )
    result: LoopResult = {
        "rounds": [{k: v for k, v in r.items() if k != "kept"} for r in rounds],
        "stopped": stopped,
        "best_round": chosen,
        "cost": cost(rounds),
        **compare_arms(materials, rounds, chosen, folder),
    }
    for line in verdict(result):
        log.info(line)
    write_loop(folder, result)
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    blocks = [*headline_of(result, "loop"), loop_chart(result)]
    opening = page.opening("A loop of valuing, choosing and retraining", materials, blocks)
    content = "what the round valued, ranked and kept"
    folders = [Output(path.name, content) for path in sorted(folder.glob("round_*"))]
    page.write(folder, [opening, *loop_sections(result, plain(cfg.loop))], [*OUTPUTS, *folders])
    return float(result["arms"]["loop"]["mean"])


def check(cfg: Settings) -> None:
    """Refuse what cannot work before an hour has gone into it.

    Raises:
        ConfigError: a key is missing, or has a value that the loop cannot use.
    """
    for key in ("data.pool", "data.query", "data.eval"):
        require(cfg, key, "loop")
    loop = cfg.loop
    if loop.action not in ("select", "drop"):
        raise ConfigError(f"loop.action={loop.action} is neither select nor drop.")
    if not 0 < loop.share < 1:
        raise ConfigError(f"loop.share={loop.share} must lie between 0 and 1.")
    if not 0 <= loop.held_out < 1:
        raise ConfigError(f"loop.held_out={loop.held_out} must be at least 0 and below 1.")
    if loop.threshold is not None and loop.action == "select":
        raise ConfigError("loop.threshold is for loop.action=drop; select keeps loop.share.")
    if cfg.select.k is not None:
        raise ConfigError("loop.share says how many samples a round keeps; leave select.k out.")
    strategies = ("top_k", "diverse") if loop.action == "select" else ("top_k",)
    if cfg.select.strategy not in strategies:
        raise ConfigError(
            f"select.strategy={cfg.select.strategy} does not go with loop.action={loop.action}; "
            f"use {' or '.join(strategies)}."
        )
    if cfg.data.unit != "conversation":
        raise ConfigError("recipe=loop values whole rows: leave data.unit=conversation.")
    get_method(cfg.rank.method)
    if cfg.mode != "training":
        raise ConfigError("recipe=loop values while it trains: leave mode=training.")
    if not cfg.seeds or len(set(cfg.seeds)) < len(cfg.seeds):
        raise ConfigError(f"seeds={list(cfg.seeds)}: give at least one, each once.")


def run_rounds(materials: Materials, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Results of round 0, which is the whole pool, and of those that follow; and why no more."""
    loop, query = materials.cfg.loop, materials.query
    assert query is not None  # `check` has asked for it
    if len(query) < 2 and loop.held_out:
        raise ConfigError("data.query has one row, and none can be held out; set loop.held_out=0.")
    ranking, held_out = held_out_queries(len(query), loop.held_out, materials.cfg.seed)
    queries = folder / "query.jsonl"
    write_jsonl([query.rows[place] for place in ranking], queries)
    shared = Rounds(
        materials, folder, queries, subset(query.dataset, held_out), settings_of(materials)
    )
    rounds = [shared.run(0, [])]
    while True:
        losses = [r["query_loss"] for r in rounds]
        if len(rounds) > 1:
            last = rounds[-1]
            log.info(
                "round %d: %d of %d samples kept; loss on the held-out queries %s, at best %.4f",
                last["round"],
                last["n_kept"],
                last["n_pool"],
                "not measured" if last["query_loss"] is None else f"{last['query_loss']:.4f}",
                min(loss for loss in losses if loss is not None),
            )
        reason = why_stop(losses, loop.rounds, loop.min_gain, loop.patience)
        if reason is not None:
            return rounds, reason
        rounds.append(shared.run(len(rounds), rounds[-1]["kept"]))


def best_round(losses: Sequence[float | None], min_gain: float) -> int:
    """The last round whose loss is more than `min_gain` below that of the best before it.

    Args:
        losses: of round 0 and on, nats per response token; None: the round changed nothing.
        min_gain: in the same unit, at least 0.

    Example:
        >>> best_round([0.9, 0.7, 0.69, 0.75], min_gain=0.05)
        1
    """
    chosen, lowest = 0, losses[0]
    assert lowest is not None
    for number, loss in enumerate(losses):
        if loss is not None and loss < lowest - min_gain:
            chosen, lowest = number, loss
    return chosen


def why_stop(
    losses: Sequence[float | None], rounds: int, min_gain: float, patience: int
) -> str | None:
    """Why no further round is done; None: go on.

    Args:
        losses: as for `best_round`.
        rounds: the most that are done, round 0 not counted.
        min_gain: as for `best_round`.
        patience: rounds without such a gain after which the loop stops.
    """
    if losses[-1] is None:
        return "the last round left the pool as it was"
    stale = len(losses) - 1 - best_round(losses, min_gain)
    if stale >= patience:
        return f"no gain above {min_gain:g} in {stale} round{'s' * (stale > 1)}"
    if len(losses) > rounds:
        return f"loop.rounds={rounds} are done"
    return None


def cost(rounds: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Optimizer steps and seconds that the rounds took, round 0 included."""
    steps: dict[str, float] = {
        n: sum(r[f"{n}_steps"] for r in rounds) for n in ("valuation", "retraining")
    }
    seconds = {n: sum(r["seconds"].get(n, 0.0) for r in rounds) for n in steps}
    return {"steps": steps | {"total": sum(steps.values())}, "seconds": seconds}


def arms_of(
    pool: Split, kept: Sequence[SampleId], one_shot: Sequence[SampleId], seeds: Sequence[int]
) -> dict[str, list[Sequence[SampleId]]]:
    """Arm -> ids for each seed; the random arm draws from the whole pool, anew for each seed."""
    everyone = list(dict.fromkeys(pool.ids))
    chance = Ranking(as_id_array(everyone), np.zeros(len(everyone)), method="random")
    n = len(seeds)
    return {
        "loop": [kept] * n,
        "one_shot": [one_shot] * n,
        "random_k": [select(chance, "random", len(kept), seed=seed) for seed in seeds],
        "full": [everyone] * n,
        "full_equal_compute": [everyone] * n,
    }


def compare_arms(
    materials: Materials, rounds: Sequence[dict[str, Any]], chosen: int, folder: Path
) -> Comparison:
    """Retrain all arms; each is kept in ``arms/`` when it is done."""
    cfg, kept = materials.cfg, rounds[chosen]["kept"]
    seeds, steps = [int(seed) for seed in cfg.seeds], retrain_steps(materials)
    k, n = len(kept), len(set(map(str, materials.pool.ids)))
    one_shot = kept if k == n else first_choice(folder, k, cfg)
    total = int(cost(rounds)["steps"]["total"])
    evaluation = materials.require_evaluation().fingerprint()
    losses: dict[str, list[float]] = {}
    facts: dict[str, dict[str, int]] = {"base": {"n": 0, "steps": 0}}
    trained: dict[Any, list[float]] = {}
    for arm, ids in arms_of(materials.pool, kept, one_shot, seeds).items():
        arm_steps = total if arm == "full_equal_compute" else steps
        facts[arm] = {"n": len(set(map(str, ids[0]))), "steps": arm_steps}
        which = tuple(tuple(sorted(map(str, some))) for some in ids)
        settings = settings_of(materials) | {"eval": evaluation, "seeds": seeds}
        digest = hashlib.sha256(json.dumps(which).encode()).hexdigest()
        settings |= {"steps": arm_steps, "ids": digest}
        part, keys = folder / "arms" / f"{arm}.json", ("eval_loss", "base")
        done = read_part(part, settings, keys, replace=True)
        key = (arm_steps, which)
        if done is None and key in trained:  # the loop may have found just this set
            done = {"eval_loss": trained[key], "base": losses["base"]}
        elif done is None:
            size = f"{facts[arm]['n']:,} samples, {arm_steps:,} steps"
            log.info("arm %s: %s", arm, size)
            keep = {"loop": folder / "adapter"}
            found = run_arms({arm: ids}, materials, seeds=seeds, steps=arm_steps, adapters=keep)
            done = {"eval_loss": found[arm], "base": found["base"]}
        write_part(part, settings, done)
        losses["base"], losses[arm] = done["base"], done["eval_loss"]
        trained[key] = done["eval_loss"]
    summary = summarise_arms(losses, k, steps, len(seeds))
    for arm, some in facts.items():
        summary["arms"][arm] |= {"n": some["n"], "steps": some["steps"]}
    return summary


def settings_of(materials: Materials) -> dict[str, Any]:
    """What the rounds depend on."""
    cfg = materials.cfg
    assert materials.query is not None
    settings = {
        n: plain(cfg[n]) for n in ("model", "train", "retrain", "lora", "influence", "rank")
    }
    settings["influence"].pop("overwrite")
    settings["model"]["name"] = Path(cfg.model.name).name  # the same from another folder
    settings["loop"] = {k: v for k, v in plain(cfg.loop).items() if k not in _RULE}
    settings["select"] = {k: cfg.select[k] for k in ("strategy", "max_similarity")}
    settings["seed"] = int(cfg.seed)
    return settings | {
        "pool": materials.pool.fingerprint(),
        "query": materials.query.fingerprint(),
        **materials.model_content,
    }


def _facts(found: LoopResult) -> Facts:
    best = found["rounds"][found["best_round"]]
    rounds = f"best is round {found['best_round']} of {len(found['rounds']) - 1}"
    facts = {"loop": f"{rounds}, {best['n_kept']:,} samples kept; {found['stopped']}"}
    return facts | arm_facts(found)


RECIPE = Recipe(
    run, OUTPUTS, next_command=page.train_on_it, takes_over=("rank",), goes_on=True, trains=True
)
