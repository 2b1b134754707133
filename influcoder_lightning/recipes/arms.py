"""Retraining in arms: fresh LoRAs on chosen samples, each measured; one by one or side by side."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.trainers import save_lora
from influcoder_lightning.finetune.training import evaluate
from influcoder_lightning.recipes.chosen_rows import chosen_from
from influcoder_lightning.recipes.retrain import retraining_of
from influcoder_lightning.recipes.subset_models import settings_of
from influcoder_lightning.run.finished_parts import read_part, write_part
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.parallel import jobs_for
from influcoder_lightning.run.progress import ShowSteps, quiet
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.stages import Stage, stage
from influcoder_lightning.run.together import shared
from influcoder_lightning.side_by_side import side_by_side
from influcoder_lightning.valuation.fingerprint import fingerprint

log = logging.getLogger(__name__)
Arms = Mapping[str, Sequence[Sequence[Any]]]
PARTS = "arms"
_CONTENT = ("eval_loss",)


@dataclass(frozen=True)
class _Run:
    """One training: the arm, its seed, the ids that it learns from, where its LoRA is kept."""

    arm: str
    seed: int
    ids: tuple[Any, ...]
    adapter: Path | None

    @property
    def file(self) -> str:
        return f"{self.arm}_{self.seed}.json"


def run_arms(
    arms: Arms,
    materials: Materials,
    *,
    seeds: Sequence[int],
    steps: int,
    adapters: Mapping[str, Path | None] | None = None,
    folder: Path | None = None,
) -> dict[str, list[float]]:
    """Held-out loss of the untrained ``base`` and of each arm and seed, nats per response token.

    Every run trains a fresh LoRA for the same number of steps; the arms of one seed share initial
    weights. What ended before an interruption is not trained again. Where work for the cores is
    left, or there are several devices, runs go side by side (``parallel.jobs``).

    Args:
        arms: arm -> ids of its samples for each seed. A benchmark may bring arms of its own.
        materials: pool, evaluation rows, model and settings.
        seeds: one for each entry of an arm.
        steps: optimizer steps of every run.
        adapters: arm -> folder for the adapter of its first seed.
        folder: of the run, where each arm's loss is kept until the next run begins; None: nowhere.

    Raises:
        ConfigError: an arm without ids for each seed; a finished arm of other settings.
    """
    for arm, ids in arms.items():
        if len(ids) != len(seeds):
            raise ConfigError(f"arm {arm!r} has ids for {len(ids)} seeds, not {len(seeds)}.")
    trainer = _Arms(materials, steps)
    with stage("loading the model"):
        base = trainer.retraining.untrained()
    with stage("measuring the base model"):
        losses = {"base": [evaluate(base, trainer.evaluation)]}
    base = trainer.retraining.base()
    runs = [
        _Run(arm, seed, tuple(ids), (adapters or {}).get(arm) if number == 0 else None)
        for arm, by_seed in arms.items()
        for number, (seed, ids) in enumerate(zip(seeds, by_seed, strict=True))
    ]
    parts = _Parts(folder, materials, base, steps)
    found = {run: loss for run in runs if (loss := parts.read(run)) is not None}
    with stage("retraining", len(runs) * steps, "steps") as done:
        for run, loss in _trained([run for run in runs if run not in found], trainer, done):
            parts.keep(run, loss)
            found[run] = loss
            own = [found[other] for other in runs if other.arm == run.arm and other in found]
            if len(own) == len(seeds):
                log.info("  %-8s held-out loss %.4f", run.arm, sum(own) / len(own))
        done.result = f"{len(runs)} runs of {steps:,} steps"
    for run in runs:
        losses.setdefault(run.arm, []).append(found[run])
    return losses


def _trained(todo: list[_Run], trainer: _Arms, done: Stage) -> Any:
    """Each run with its loss: the first here, whose time says how the others are done."""
    steps, cfg = trainer.steps, trainer.materials.cfg
    for number, run in enumerate(todo):
        begun = perf_counter()
        trainer.show = lambda run=run, number=number: ShowSteps(
            done, number * steps, f"{run.arm}, seed {run.seed}"
        )
        yield run, trainer(run)
        rest = todo[number + 1 :]
        jobs = jobs_for(cfg, len(rest), perf_counter() - begun)
        if jobs < 2:
            continue
        log.info("the other %d runs go side by side, %d at a time", len(rest), jobs)
        start = _StartArms(plain(cfg), trainer.materials.recipe, steps)
        for ended, one in enumerate(side_by_side(rest, start, jobs), number + 2):
            done(ended * steps)
            yield one
        return


class _Arms:
    """Trains and measures one run after the other."""

    def __init__(self, materials: Materials, steps: int, alone: bool = False) -> None:
        self.materials, self.steps = materials, steps
        self.evaluation = materials.require_evaluation().dataset
        self.retraining, self._pool = retraining_of(materials, alone), chosen_from(materials)
        self.show: Callable[[], ShowSteps] | None = None

    def __call__(self, run: _Run) -> float:
        """The held-out loss after a run."""
        callbacks = [] if self.show is None else [self.show()]
        rows = self._pool.subset(run.ids)
        model = self.retraining.run(rows, self.steps, run.seed, callbacks)
        loss = evaluate(model, self.evaluation)
        if run.adapter is not None:
            save_lora(model, run.adapter)
        return loss


@dataclass(frozen=True)
class _StartArms:
    """Gets another process ready for runs; can be pickled."""

    settings: Mapping[str, Any]
    recipe: str
    steps: int

    def __call__(self) -> Callable[[_Run], float]:
        logging.getLogger("influcoder_lightning").setLevel(logging.WARNING)
        warnings.simplefilter("ignore", DeprecationWarning)
        trainer = _Arms(Materials(Settings(self.settings), self.recipe), self.steps, alone=True)

        def work(run: _Run) -> float:
            with quiet():
                return trainer(run)

        return work


class _Parts:
    """Finished runs in the run folder."""

    def __init__(self, folder: Path | None, materials: Materials, base: Any, steps: int) -> None:
        self._folder = None if folder is None else folder / PARTS
        if folder is not None:
            materials.look_at(base)
            self._settings = settings_of(materials) | {
                "steps": steps,
                "retrain.lr": materials.cfg.retrain.lr,
                "eval": materials.require_evaluation().fingerprint(),
            }

    def read(self, run: _Run) -> float | None:
        if self._folder is None:
            return None
        if run.adapter is not None and not shared(run.adapter).is_dir():
            return None
        part = read_part(self._folder / run.file, self._of(run), _CONTENT, replace=True)
        return None if part is None else float(part["eval_loss"])

    def keep(self, run: _Run, loss: float) -> None:
        if self._folder is not None:
            write_part(self._folder / run.file, self._of(run), {"eval_loss": loss})

    def _of(self, run: _Run) -> dict[str, Any]:
        ids = fingerprint([str(name) for name in run.ids])
        return self._settings | {"arm": run.arm, "seed": run.seed, "ids": ids}
