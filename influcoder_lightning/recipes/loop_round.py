"""One round of recipe=loop: value the present pool, choose from it, retrain on the choice."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset

from influcoder_lightning.data.rows import Row, write_jsonl
from influcoder_lightning.finetune.training import evaluate
from influcoder_lightning.ids import SampleId, id_keys
from influcoder_lightning.influence.ranking import Ranking
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes import valuate
from influcoder_lightning.recipes.retrain import retrain_steps, retraining_of
from influcoder_lightning.run.finished_parts import read_part, write_part
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.progress import ShowSteps
from influcoder_lightning.run.run_folder import RANKING, SELECTED
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.split import Split
from influcoder_lightning.run.stages import stage
from influcoder_lightning.run.together import shared
from influcoder_lightning.selection.diversity import SampleCodes
from influcoder_lightning.selection.selection import select

log = logging.getLogger(__name__)
PART = "round.json"
_RESULT = ("round", "n_pool", "n_kept", "query_loss", "valuation_steps", "retraining_steps",
           "seconds", "kept")  # fmt: skip


@dataclass(frozen=True)
class Rounds:
    """What all rounds share.

    Attributes:
        materials: of the whole run.
        folder: of the whole run; round r is in ``round_<r>``.
        queries: JSONL of the rows that rank.
        held_out: the tokenised rows that the stop rule measures on.
        settings: what the rounds depend on.
    """

    materials: Materials
    folder: Path
    queries: Path
    held_out: Dataset
    settings: dict[str, Any]

    def run(self, number: int, before: Sequence[SampleId]) -> dict[str, Any]:
        """The round's result, from ``round.json`` where it was finished before.

        Args:
            number: 0 only measures the whole pool; others value and choose.
            before: ids of the samples that the round before kept.
        """
        folder = self.folder / f"round_{number}"
        done = read_part(folder / PART, self.settings, _RESULT)
        if done is not None:
            log.info("round %d: done before", number)
            return done
        folder.mkdir(parents=True, exist_ok=True)
        result = self._measure_all(folder) if number == 0 else self._round(number, before, folder)
        write_part(folder / PART, self.settings, result)
        return result

    def _measure_all(self, folder: Path) -> dict[str, Any]:
        pool = self.materials.pool
        write_jsonl(pool.identified(), folder / SELECTED)
        kept = list(dict.fromkeys(pool.ids))
        loss, seconds = self._retrained(kept, 0)
        return _result(0, kept, len(kept), loss, 0, self._steps, {"retraining": seconds})

    def _round(self, number: int, before: Sequence[SampleId], folder: Path) -> dict[str, Any]:
        cfg = self._settings_of(number)
        materials = Materials(cfg, "loop")
        begun = perf_counter()
        log.info("round %d: valuing %s samples", number, f"{len(before):,}")
        store = valuate.value(materials, folder)
        ranking = valuate.rank(store, materials, folder)
        seconds = {"valuation": perf_counter() - begun}
        kept = keep(ranking, before, cfg, store)
        write_jsonl(_rows(materials.pool, ranking, kept), folder / SELECTED)
        save_config(cfg, folder, pool=materials.pool.fingerprint())
        steps = materials.valuation_steps()
        if not kept or len(kept) == len(before):
            return _result(number, list(before), len(before), None, steps, 0, seconds)
        loss, seconds["retraining"] = self._retrained(kept, number)
        return _result(number, kept, len(before), loss, steps, self._steps, seconds)

    @property
    def _steps(self) -> int:
        return retrain_steps(self.materials)

    def _settings_of(self, number: int) -> Settings:
        cfg = self.materials.cfg.copy()
        pool = shared(self.folder) / f"round_{number - 1}" / SELECTED
        changed = {"data.pool": str(pool), "data.query": str(self.queries), "data.eval": None}
        # The rows of a round have both texts, and their messages where they have some.
        changed |= {"data.format": "auto", "data.columns": None, "data.split": None}
        for key, value in changed.items():
            cfg.put(key, value)
        # A round that was interrupted is done again, unless it saved checkpoints to go on from.
        cfg.influence.overwrite = not cfg.resume
        return cfg

    def _retrained(self, kept: Sequence[SampleId], number: int) -> tuple[float, float]:
        """Loss on the held-out queries after learning from some samples, and seconds."""
        begun = perf_counter()
        cfg, pool = self.materials.cfg, self.materials.pool
        retraining = retraining_of(self.materials)
        with stage("retraining", self._steps, "steps") as done:
            model = retraining.run(pool.subset(kept), self._steps, cfg.seed, [ShowSteps(done)])
            loss = evaluate(model, self.held_out)
            done.result = f"round {number} on {len(kept):,} samples"
        return loss, perf_counter() - begun


def keep(
    ranking: Ranking, pool: Sequence[SampleId], cfg: Settings, store: InfluenceStore
) -> list[SampleId]:
    """Ids that a round keeps.

    ``loop.action=select`` keeps the best ``loop.share`` of the pool by ``select.strategy``, best
    first. ``drop`` takes away the worst share, or the scores below ``loop.threshold``; samples
    without a score, which a short valuation run did not reach, stay.

    Args:
        ranking: of the pool.
        pool: its ids, each once.
        cfg: settings.
        store: of the round, whose codes ``select.strategy=diverse`` compares.
    """
    loop = cfg.loop
    count = max(1, round(loop.share * len(pool)))
    if loop.action == "select":
        return best(ranking, count, cfg, store)
    if loop.threshold is None:
        dropped = ranking.bottom_k(count)
    else:
        dropped = ranking.sample_ids[ranking.scores < loop.threshold].tolist()
    gone = {str(name) for name in dropped}
    return [name for name in pool if str(name) not in gone]


def best(ranking: Ranking, k: int, cfg: Settings, store: InfluenceStore) -> list[SampleId]:
    """The best k ids by ``select.strategy``, which is top_k or diverse."""
    if cfg.select.strategy == "diverse":
        codes, most = SampleCodes(store), cfg.select.max_similarity
        return select(ranking, "diverse", k, codes=codes, max_similarity=most)
    return ranking.top_k(k)


def first_choice(folder: Path, k: int, cfg: Settings) -> list[SampleId]:
    """The best k of the whole pool, as the first round ranked it."""
    folder = shared(folder)
    ranking = Ranking.load(folder / "round_1" / RANKING)
    return best(ranking, k, cfg, InfluenceStore(folder / "round_1"))


def held_out_queries(n: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the query rows that rank, and of those that the stop rule measures on.

    With ``share=0`` all rows do both, and a choice that only suits these rows goes unnoticed.

    Args:
        n: query rows, at least 2 for a share above 0.
        share: of them that is held out; at least one row, and one is left.
        seed: of the draw.
    """
    if share == 0:
        return list(range(n)), list(range(n))
    order = np.random.default_rng(seed).permutation(n).tolist()
    count = min(n - 1, max(1, round(share * n)))
    return sorted(order[count:]), sorted(order[:count])


def subset(dataset: Dataset, places: Sequence[int]) -> Dataset:
    """Some rows of a dataset."""
    return Subset(dataset, list(places))


def _rows(pool: Split, ranking: Ranking, kept: Sequence[SampleId]) -> list[Row]:
    """The kept rows in the order of the pool, each with its score; None where it has none."""
    scores = dict(zip(id_keys(ranking.sample_ids), ranking.scores.tolist(), strict=True))
    finite = {key: score for key, score in scores.items() if math.isfinite(score)}
    wanted = {str(name) for name in kept}
    return [
        {**row, "influence_score": finite.get(str(row["id"]))}
        for row in pool.identified()
        if str(row["id"]) in wanted
    ]


def _result(
    number: int,
    kept: list[SampleId],
    n_pool: int,
    loss: float | None,
    valuation_steps: int,
    retraining_steps: int,
    seconds: dict[str, float],
) -> dict[str, Any]:
    return {
        "round": number,
        "n_pool": n_pool,
        "n_kept": len(kept),
        "query_loss": loss,
        "valuation_steps": valuation_steps,
        "retraining_steps": retraining_steps,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "kept": kept,
    }
