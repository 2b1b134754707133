"""fidelity: which cheap score orders samples as exact gradients do, and what does each cost?"""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path, read_whole
from influcoder_lightning.recipes.fidelity_part import run_part
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.fidelity import (
    cascade_figure,
    curve_figure,
    fidelity_table,
    quality_figure,
)
from influcoder_lightning.report.press.blocks import Chart, Section, Text
from influcoder_lightning.run.materials import Materials
from influcoder_lightning.run.outputs import AS_TABLE, FIGURES, read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings, plain
from influcoder_lightning.spreadsheet import as_cell
from influcoder_lightning.studies.fidelity.method_rows import Line
from influcoder_lightning.studies.fidelity.splits import PARTS
from influcoder_lightning.studies.fidelity.table import Merged, merge_parts
from influcoder_lightning.valuation.fingerprint import as_kept
from influcoder_lightning.valuation.valuation import library_versions

log = logging.getLogger(__name__)
STATES = ("fresh", "warm")
_COLUMNS = ("name", "kind", "adapter", "per_query", "aggregated", "ms_per_sample",
            "bytes_per_sample", "n_fit", "seeds")  # fmt: skip


OUTPUTS = (
    Output("fidelity.json", FIGURES, facts=lambda path: _facts(read_json(path)["rows"])),
    Output("fidelity.csv", AS_TABLE),
    Output("parts", "the figures of each seed and state"),
)


def run(cfg: Settings, folder: Path) -> float:
    """Write ``fidelity.json``, ``.csv`` and a report.

    Each seed and state is kept in ``parts/`` when it is done; the same command in the same folder
    goes on with the others. Returns the text tower's mean per-query disagreement, ``1 - rho``.
    """
    _check(cfg)
    materials = Materials(cfg, "fidelity")
    pool, query = materials.pool.rows, materials.query
    assert query is not None
    settings = _settings(cfg, materials)
    parts = []
    for seed in cfg.seeds:
        for state in cfg.fidelity.states:
            path = folder / "parts" / f"seed_{seed}_{state}.json"
            part = _finished(path, settings)
            if part is None:
                log.info("seed %d, %s adapter", seed, state)
                work = folder / "work" / f"seed_{seed}_{state}"
                result = run_part(materials, pool, query.rows, int(seed), state, work)
                part = {"seed": int(seed), "state": state, "settings": settings, **result}
                path.parent.mkdir(parents=True, exist_ok=True)
                with durable_path(path) as unfinished:
                    unfinished.write_text(json.dumps(part))
            parts.append(part)
    shutil.rmtree(folder / "work", ignore_errors=True)
    merged = merge_parts(parts)
    result = {**merged, "seeds": [int(seed) for seed in cfg.seeds], "settings": settings}
    with durable_path(folder / "fidelity.json") as unfinished:
        unfinished.write_text(json.dumps(result | {"versions": library_versions()}, indent=1))
    _write_csv(merged["rows"], folder / "fidelity.csv")
    save_config(cfg, folder, pool=materials.pool.fingerprint())
    page.write(folder, _sections(merged, materials), OUTPUTS)
    state = cfg.fidelity.states[-1]
    rho = next(
        row["per_query"]
        for row in merged["rows"]
        if row["name"] == "text tower" and row["adapter"] == state
    )
    return 1 - float(rho)


def _check(cfg: Settings) -> None:
    for key in ("data.pool", "data.query"):
        require(cfg, key, "fidelity")
    states = list(cfg.fidelity.states)
    if not states or len(set(states)) < len(states) or set(states) - set(STATES):
        raise ConfigError(f"fidelity.states={states}: give fresh, warm or both, each once.")
    if not cfg.seeds or len(set(cfg.seeds)) < len(cfg.seeds):
        raise ConfigError(f"seeds={list(cfg.seeds)}: give at least one, each once.")
    for name in ("n_pool", "n_query"):
        for part in PARTS:
            value = cfg.fidelity[name][part]
            if not isinstance(value, int) or value < 3:
                raise ConfigError(f"fidelity.{name}.{part}={value} must be at least 3.")


def _settings(cfg: Settings, materials: Materials) -> dict[str, Any]:
    """What the numbers of a part depend on."""
    assert materials.query is not None
    settings = {name: plain(cfg[name]) for name in ("model", "train", "lora", "influence")}
    settings["fidelity"] = {k: v for k, v in plain(cfg.fidelity).items() if k != "states"}
    settings["pool"] = materials.pool.fingerprint()
    settings["query"] = materials.query.fingerprint()
    settings |= materials.model_content
    for section, key in (("model", "name"), ("influence", "text_encoder")):
        name = settings[section][key]
        settings[section][key] = name and Path(name).name  # the same from another folder
    return settings


def _finished(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        part: dict[str, Any] = json.loads(read_whole(path))
        same = part["settings"] == as_kept(settings, part["settings"], path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it to measure anew.") from error
    if not same:
        raise ConfigError(
            f"{path} was measured with other settings; choose another hydra.run.dir, or delete the "
            "folder `parts` to measure anew."
        )
    log.info("%s: measured before", path.stem)
    return part


def _write_csv(rows: list[Line], path: Path) -> None:
    with durable_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, "per_query_spread", "aggregated_spread"])
        for row in rows:
            spread = row["spread"]
            values = [as_cell(v) if isinstance(v := row[c], str) else v for c in _COLUMNS]
            writer.writerow([*values, spread["per_query"], spread["aggregated"]])


def _sections(merged: Merged, materials: Materials) -> list[Section]:
    cfg = materials.cfg
    sizes = cfg.fidelity
    intro = (
        f"Spearman's rho with exact gradient cosines on {sizes.n_query.eval} held-out queries and "
        f"{sizes.n_pool.eval} held-out samples; means and standard deviations over "
        f"{len(cfg.seeds)} seeds (splits, LoRA, order, projections). Learned from up to "
        f"{sizes.n_pool.fit} samples and {sizes.n_query.fit} queries that are none of them. Costs "
        "are for a new sample, until it can be compared with a query."
    )
    head = page.opening("Fidelity to exact gradients", materials, [Text(intro)], ranked=False)
    sections = [head]
    for state in cfg.fidelity.states:
        table = fidelity_table(merged["rows"], state)
        sections.append(Section(f"The table, {state} adapter", [table]))
    sections += _charts(merged)
    lines = [
        f"{line['half']} confident half, {line['adapter']} adapter: per query "
        f"{line['per_query']:.3f}, aggregated {line['aggregated']:.3f} (stated confidence "
        f"{line['stated']:.2f})"
        for line in merged["confidence"]
    ]
    sections.append(Section("Confidence of the text tower", [Text(line) for line in lines]))
    if merged["states_agree"] is not None:
        agree = merged["states_agree"]
        text = (
            f"Exact scores of the fresh and the warm adapter agree at {agree['per_query']:.3f} per "
            f"query and {agree['aggregated']:.3f} aggregated."
        )
        sections.append(Section("Fresh against warm", [Text(text)]))
    return sections


def _charts(merged: Merged) -> list[Section]:
    charts = {
        "Quality against cost": Chart(
            quality_figure(merged["rows"]),
            "Agreement with exact gradients against what a sample costs. Only methods that nothing "
            "cheaper beats are named.",
            "fidelity.png",
        ),
        "How much there is to learn from": Chart(
            curve_figure(merged["curve"]),
            "Agreement against samples learned from. Bars: one standard deviation.",
            "curve.png",
        ),
        "A cascade": Chart(
            cascade_figure(merged["cascade"]),
            "Exact gradients for m samples, the text tower for the rest.",
            "cascade.png",
        ),
    }
    return [Section(title, [chart]) for title, chart in charts.items()]


def _facts(rows: list[Line]) -> Facts:
    facts = {"agreement": "with exact gradients per query (Spearman), CPU ms per sample"}
    cheap = [row for row in rows if row["kind"] != "exact"]
    for row in sorted(cheap, key=lambda row: -row["per_query"])[:5]:
        name = f"  {row['name']}, {row['adapter']}"
        facts[name] = f"{row['per_query']:.3f}  {row['ms_per_sample']:.1f} ms"
    return facts


RECIPE = Recipe(run, OUTPUTS, goes_on=True)
