"""agreement: do two rankings, ours or from elsewhere, say the same?"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path
from influcoder_lightning.influence.agreement import Agreement, Pair, agreement, pair
from influcoder_lightning.influence.score_files import load_scores
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.report.findings.two_rankings import agreement_figure
from influcoder_lightning.report.press.blocks import (
    Block,
    Chart,
    Number,
    Numbers,
    Section,
    Table,
    Text,
)
from influcoder_lightning.run.outputs import FIGURES, read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import require
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings

log = logging.getLogger(__name__)


OUTPUTS = (Output("agreement.json", FIGURES, facts=lambda path: _facts(read_json(path))),)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``agreement.json`` and a report."""
    files = [_files(require(cfg, key, "agreement")) for key in ("a", "b")]
    ks, only_common = _options(cfg)
    a, b = (load_scores(paths) for paths in files)
    scores = pair(a, b, only_common)
    result = agreement(scores, ks)
    with durable_path(folder / "agreement.json") as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    names = [_name(paths) for paths in files]
    save_config(cfg, folder)
    page.write(folder, _sections(result, scores, names), OUTPUTS)
    log.info(
        "%d samples: Spearman %s, Kendall %s; top %s in common: %s",
        result["n"],
        _short(result["spearman"]),
        _short(result["kendall"]),
        "/".join(result["overlap"]),
        "/".join(f"{share:.0%}" for share in result["overlap"].values()),
    )
    for reason, count in result["left_out"].items():
        if count:
            log.warning("%d samples left out: %s", count, reason)


def _options(cfg: Settings) -> tuple[list[int], bool]:
    ks, only_common = cfg.agreement.ks, cfg.agreement.only_common
    if ks is not None and not isinstance(ks, list):
        raise ConfigError(f"agreement.ks={ks} must be a list of whole numbers, like [100,500].")
    if not isinstance(only_common, bool):
        raise ConfigError(f"agreement.only_common={only_common} must be true or false.")
    return [] if ks is None else list(ks), only_common


def _files(source: Any) -> list[str]:
    return list(map(str, source if isinstance(source, list) else [source]))


def _name(files: list[str]) -> str:
    """Enough of the path to tell two runs apart."""
    first = Path(*Path(files[0]).parts[-2:]).as_posix() if files else ""
    return first if len(files) < 2 else f"{first} and {len(files) - 1} more"


def _sections(result: Agreement, scores: Pair, names: list[str]) -> list[Section]:
    distinct = result["distinct_scores"]
    opening: list[Block] = [
        Numbers(
            [
                Number("Spearman", _short(result["spearman"])),
                Number("Kendall", _short(result["kendall"])),
                Number("samples", f"{result['n']:,}", "with a score in both"),
            ]
        ),
        Text(f"a: {names[0]} ({distinct['a']:,} distinct scores)"),
        Text(f"b: {names[1]} ({distinct['b']:,} distinct scores)"),
    ]
    for reason, count in result["left_out"].items():
        if count:
            opening.append(Text(f"Left out: {count:,} samples {reason}."))
    overlaps = [
        [int(k), share, result["bottom_overlap"][k], int(k) / result["n"]]
        for k, share in result["overlap"].items()
    ]
    sections = [
        Section("Agreement of two rankings", opening),
        Section(
            "What both would select",
            [
                Chart(
                    agreement_figure(scores, *names),
                    "Ranks against ranks; overlap of the top k for every k.",
                    "agreement.png",
                ),
                Table(["k", "top k in common", "bottom k in common", "by chance"], overlaps),
            ],
        ),
    ]
    if "bins" in result:
        by = result["binned_by"]
        note = (
            f"Samples by their score in {by}, against as many from the top of the other ranking "
            "(<= 0.5: from its bottom), as in arXiv 2407.12259."
        )
        rows = [
            [name, found["n"], found["overlap"], found["n"] / result["n"]]
            for name, found in result["bins"].items()
        ]
        table = Table([f"score in {by}", "n", "overlap", "by chance"], rows)
        sections.append(Section("Score bins", [Text(note), table]))
    return sections


def _short(value: float | None) -> str:
    return "undefined (a side is constant)" if value is None else f"{value:.3f}"


def _facts(found: dict[str, Any]) -> Facts:
    facts = {"samples": f"{found['n']:,}"}
    for name in ("spearman", "kendall"):
        facts[name] = "undefined" if found[name] is None else f"{found[name]:.3f}"
    return facts | {f"top {k} in common": f"{share:.0%}" for k, share in found["overlap"].items()}


RECIPE = Recipe(run, OUTPUTS)
