"""What a long valuation is expected to take, before it begins; and at its end, what it took."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from influcoder_lightning.files import durable_path, is_gguf
from influcoder_lightning.recipes.look_trial import Estimate, estimate, peak_memory
from influcoder_lightning.recipes.retrain import retrain_steps
from influcoder_lightning.report.press.units import duration, in_bytes
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import read_json
from influcoder_lightning.run.recipe import Facts, Output
from influcoder_lightning.run.run_folder import STORE
from influcoder_lightning.run.stages import stage
from influcoder_lightning.run.together import is_first, shared

log = logging.getLogger(__name__)
_STEPS = 240  # from which on the trial is a small part of the run
_WEIGHTS = 2**27  # bytes of a model with which even a few steps take minutes


@contextmanager
def forecast(materials: Materials, folder: Path) -> Iterator[None]:
    """Around a valuation; a short one is not tried first.

    Args:
        materials: of the run.
        folder: of the run, where ``estimate.json`` is written.
    """
    if not (is_first() and is_long(materials)):
        yield
        return
    with stage("trying some steps") as done:
        expected = estimate(materials)
        done.result = f"the valuation takes {expected.words()}{_retrainings(materials, expected)}"
    begun = perf_counter()
    yield
    store = shared(folder) / STORE
    disk = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    seconds = perf_counter() - begun
    took = Estimate(expected.steps, seconds, seconds / expected.steps, peak_memory(), disk)
    content = {"expected": asdict(expected), "took": asdict(took)}
    with durable_path(folder / FORECAST.name) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    log.info("the valuation took %s", _words(content))


def _retrainings(materials: Materials, expected: Estimate) -> str:
    """What comes behind it, where the recipe retrains."""
    if materials.recipe not in ("pipeline", "quickstart"):
        return ""
    n, steps = 4 * len(materials.cfg.seeds), retrain_steps(materials)
    seconds = n * steps * expected.step_seconds
    return f"; then {n} retrainings of {steps:,} steps take about {duration(seconds)}"


def is_long(materials: Materials) -> bool:
    """Whether a valuation takes so long that a few steps on trial do not matter."""
    cfg = materials.cfg
    if cfg.mode != "training" or cfg.resume:
        return False
    return materials.valuation_steps() >= _STEPS or _n_bytes(str(cfg.model.name)) >= _WEIGHTS


def _n_bytes(model: str) -> float:
    """Of a model's weights; of one on the hub it is not known, and it may be large."""
    path = Path(model)
    if is_gguf(model):
        return path.stat().st_size * 4.0  # of float32; eight bits of it or fewer are in the file
    if not path.is_dir():
        return float("inf")
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _words(content: dict[str, dict[str, Any]]) -> str:
    expected, took = content["expected"], content["took"]
    return (
        f"{duration(took['seconds'])} (expected: {duration(expected['seconds'])}), "
        f"{in_bytes(took['memory'])} of memory ({in_bytes(expected['memory'])}), "
        f"{in_bytes(took['disk'])} on disk ({in_bytes(expected['disk'])})"
    )


def _facts(path: Path) -> Facts:
    return {"took": _words(read_json(path))}


FORECAST = Output(
    "estimate.json", "what the valuation was expected to take, and what it took", facts=_facts
)
