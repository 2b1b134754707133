"""look: what a valuation would see of the rows, and what it would take, before it begins."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from influcoder_lightning.data.marked_tokens import BEGIN, END, marked_tokens
from influcoder_lightning.files import durable_path
from influcoder_lightning.recipes.look_trial import Estimate, estimate
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.report.press.blocks import Code, Number, Numbers, Section, Text
from influcoder_lightning.report.press.units import duration, in_bytes
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import FIGURES, read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.saved_config import CONFIG, read_config, save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.run.stages import stage

log = logging.getLogger(__name__)

OUTPUTS = (Output("look.json", FIGURES, facts=lambda path: _facts(read_json(path))),)
_ROWS = 10


def run(cfg: Settings, folder: Path) -> None:
    """Print rows as tokens, counts and an estimate; write ``look.json`` and a report."""
    materials = Materials(cfg, "look")
    pool = materials.pool
    places = [round(at * (len(pool) - 1) / max(1, _ROWS - 1)) for at in range(_ROWS)]
    shown = {str(pool.ids[at]): _marked(materials, at) for at in dict.fromkeys(places)}
    log.info("rows as tokens, a bar between them; those between %s and %s have a loss", BEGIN, END)
    for name, text in shown.items():
        log.info("  %s: %s", name, text)
    log.info("trying some steps of the valuation; nothing of it is kept")
    with stage("trying some steps") as done:
        found = estimate(materials)
        done.result = f"the valuation takes {found.words()}"
    counts = {**asdict(materials.census), **_tokens(materials)}
    figures = {"pool": counts, "valuation": asdict(found)}
    with durable_path(folder / "look.json") as part:
        part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    save_config(cfg, folder, pool=pool.fingerprint())
    page.write(folder, _sections(materials, found, shown), OUTPUTS)


def _marked(materials: Materials, place: int) -> str:
    return marked_tokens(materials.pool.dataset[place], materials.tokenizer)


def _tokens(materials: Materials) -> dict[str, int]:
    report = materials.pool.report
    assert report is not None
    return {
        "response_tokens": report.n_response_tokens,
        "prompts_cut": report.n_prompts_truncated,
        "responses_cut": report.n_responses_truncated,
        "dropped": report.n_dropped,
        "without_response": report.n_without_response,
        "spelling_special": report.n_spelling_special,
    }


def _sections(materials: Materials, found: Estimate, shown: dict[str, str]) -> Sequence[Section]:
    numbers = Numbers(
        [
            Number("samples", f"{len(materials.pool):,}"),
            Number("steps", f"{found.steps:,}"),
            Number("time", duration(found.seconds), "without loading the model"),
            Number("memory", in_bytes(found.memory)),
            Number("disk", in_bytes(found.disk), "twice that while the store is merged"),
        ]
    )
    return [
        page.opening("A look before the run", materials, [numbers], ranked=False),
        Section(
            "Rows as tokens",
            [
                Text(
                    f"{len(shown)} rows from all of the pool, a bar between tokens. Those between "
                    f"{BEGIN} and {END} have a loss: they are what a sample's gradient is of."
                ),
                *(Code(f"{name}: {text}", "text") for name, text in shown.items()),
            ],
        ),
    ]


def _facts(found: dict[str, Any]) -> Facts:
    pool, valuation = found["pool"], Estimate(**found["valuation"])
    return {
        "pool": f"{pool['rows']:,} rows, {pool['response_tokens']:,} tokens with a loss",
        "odd": f"{pool['empty']:,} empty responses, {pool['copies']:,} copies, {pool['near']:,} "
        f"near copies, {pool['shared_ids']:,} shared ids",
        "too long": f"{pool['prompts_cut']:,} prompts cut, {pool['responses_cut']:,} rows cut at "
        f"their end, {pool['dropped']:,} dropped",
        "valuation": valuation.words(),
    }


def _valuate(folder: Path) -> str:
    """The command of the run in ``folder``, with recipe=valuate and a run folder of its own."""
    words = shlex.split(str(read_config(folder / CONFIG)["command"]))
    kept = [w for w in words if not w.startswith(("recipe=", "hydra.run.dir="))]
    return shlex.join([kept[0], "recipe=valuate", *kept[1:]])


RECIPE = Recipe(run, OUTPUTS, next_command=_valuate)
