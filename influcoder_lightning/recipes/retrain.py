"""retrain: a fresh LoRA on chosen rows."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from influcoder_lightning.data.written_rows import FORMS
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path
from influcoder_lightning.finetune.retraining import Retraining
from influcoder_lightning.finetune.trainers import save_lora
from influcoder_lightning.finetune.training import evaluate
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.report.press.blocks import Number, Numbers, Text
from influcoder_lightning.run.base_model import base_model
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import ADAPTER, read_json
from influcoder_lightning.run.progress import ShowSteps
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import RANKING, locate, shown_path
from influcoder_lightning.run.saved_config import CONFIG, load_config, save_config
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.run.stages import stage

log = logging.getLogger(__name__)


OUTPUTS = (
    Output(
        "metrics.json",
        "held-out loss before and after the training",
        facts=lambda path: _facts(read_json(path)),
    ),
    ADAPTER,
)


def run(cfg: Settings, folder: Path) -> float | None:
    """Write ``adapter/``, ``metrics.json`` and a report; returns the held-out loss, if any."""
    materials = Materials(cfg, "retrain")
    pool, evaluation = materials.pool, materials.evaluation
    retraining = retraining_of(materials)
    with stage("loading the model"):
        model: Any = retraining.untrained()
    before = None
    if evaluation is not None:
        with stage("measuring before"):
            before = evaluate(model, evaluation.dataset)
    steps = retrain_steps(materials)
    with stage("training", steps, "steps") as done:
        model = retraining.run(pool.dataset, steps, cfg.seed, [ShowSteps(done)])
        done.result = f"{steps:,} steps on {len(pool):,} samples"
    after = None
    if evaluation is not None:
        with stage("measuring after"):
            after = evaluate(model, evaluation.dataset)
    save_lora(model, folder / "adapter")
    metrics = {
        "eval_loss": {"before": before, "after": after},
        "steps": steps,
        "n_samples": len(pool),
    }
    with durable_path(folder / "metrics.json") as part:
        part.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    save_config(cfg, folder, pool=pool.fingerprint())
    if before is not None and after is not None:
        log.info("held-out loss: %.4f before, %.4f after (nats per response token)", before, after)
    log.info("adapter: %s", folder / "adapter")
    page.write(
        folder,
        [page.opening("Trained on chosen samples", materials, _outcome(metrics), ranked=False)],
        OUTPUTS,
    )
    return after


def _outcome(metrics: dict[str, Any]) -> list[Text | Numbers]:
    """What the training did to the held-out loss, in one sentence and as figures."""
    before, after = metrics["eval_loss"]["before"], metrics["eval_loss"]["after"]
    steps, n = f"{metrics['steps']:,}", f"{metrics['n_samples']:,}"
    size = [Number("samples", n), Number("steps", steps)]
    if after is None:
        return [Text("Trained; without data.eval nothing was measured."), Numbers(size)]
    way = "lowered" if after < before else "did not lower"
    return [
        Text(
            f"Training for {steps} steps on these {n} samples {way} the held-out loss: "
            f"{before:.3f} before, {after:.3f} after.",
            lead=True,
            terms=["held-out loss"],
        ),
        Text(
            "One run, one seed: whether other samples would have done as well is what "
            "recipe=compare measures."
        ),
        Numbers(
            [
                Number("held-out loss, before", f"{before:.3f}", "nats per response token"),
                Number("held-out loss, after", f"{after:.3f}", "nats per response token"),
                *size,
            ]
        ),
    ]


def retrain_steps(materials: Materials) -> int:
    """``retrain.steps``, or else the steps of the valuation run."""
    steps = materials.cfg.retrain.steps
    return materials.valuation_steps() if steps is None else int(steps)


def retraining_of(materials: Materials, alone: bool = False) -> Retraining:
    """How the recipes train again: as the valuation did, with ``retrain.lr`` where it is given."""
    options = materials.training_options(alone)
    if materials.cfg.retrain.lr is not None:
        options["lr"] = materials.cfg.retrain.lr
    cfg = materials.cfg
    return Retraining(lambda: base_model(cfg), plain(cfg.lora), options, cfg.model.adapter)


def adopt_steps(cfg: Settings, given: Collection[str]) -> None:
    """Say where steps that are given have no effect beside those of the earlier run."""
    if "retrain.steps" in given or cfg.retrain.steps is None or "train.steps" not in given:
        return
    log.warning(
        "train.steps has no effect here: retrain.steps=%s of the earlier run holds; set that",
        cfg.retrain.steps,
    )


def _adopt(cfg: Settings, source: Path, given: Collection[str]) -> None:
    if "data.pool" not in given:
        chosen = locate(source, *FORMS.values())
        cfg.data.pool, cfg.data.split = str(chosen.absolute()), None
        if load_config(chosen.parent).select.unit == "turn":  # written as messages
            cfg.data.format, cfg.data.columns = "auto", None
    adopt_steps(cfg, given)


def _facts(found: dict[str, Any]) -> Facts:
    before, after = found["eval_loss"]["before"], found["eval_loss"]["after"]
    facts = {"trained on": f"{found['n_samples']:,} samples, {found['steps']:,} steps"}
    if after is not None:
        facts["held-out loss"] = f"{before:.4f} before, {after:.4f} after (nats per response token)"
    return facts


def _comparison_of_choice(folder: Path) -> str | None:
    """Was the choice better than chance? None where nothing was ranked."""
    if not (folder / CONFIG).is_file():
        return None
    cfg = load_config(folder)
    if cfg["from"] is None:
        return None
    source = Path(cfg["from"])
    try:
        locate(source, RANKING)
    except ConfigError:  # a loop ranks in its rounds; a choice of one's own has no ranking
        return None
    earlier = load_config(source)
    command = f"influcoder recipe=compare from={shlex.quote(shown_path(source))}"
    if earlier.select.k is None:
        command += f" select.k={read_json(folder / 'metrics.json')['n_samples']}"
    if earlier.data.eval is None:
        given = cfg.data.eval if isinstance(cfg.data.eval, str) else None
        command += f" data.eval={shlex.quote(shown_path(Path(given))) if given else 'eval.jsonl'}"
    return command


RECIPE = Recipe(
    run,
    OUTPUTS,
    next_command=_comparison_of_choice,
    takes_over=("select",),
    adopt=_adopt,
    trains=True,
)
