"""agreement: do two rankings, ours or from elsewhere, say the same?"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from influcoder_lightning.influence.agreement import agreement, pair
from influcoder_lightning.influence.atomic import atomic_path
from influcoder_lightning.influence.score_files import load_scores
from influcoder_lightning.recipes.run_folder import plain, require, save_config
from influcoder_lightning.report import Figure, Section, Table, Text, write_report
from influcoder_lightning.report.agreement import plot_agreement

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> None:
    """Write ``agreement.json``, ``agreement.png`` and ``report.md``."""
    names = [_name(require(cfg, key, "agreement")) for key in ("a", "b")]
    a, b = (load_scores(plain(cfg[x]) if OmegaConf.is_list(cfg[x]) else cfg[x]) for x in "ab")
    scores = pair(a, b, bool(cfg.agreement.only_common))
    result = agreement(scores, list(cfg.agreement.ks or ()))
    with atomic_path(folder / "agreement.json") as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    plot_agreement(scores, folder / "agreement.png", *names)
    save_config(cfg, folder)
    write_report(folder / "report.md", _sections(result, names, folder))
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


def _sections(result: dict[str, Any], names: list[str], folder: Path) -> list[Section]:
    text = (
        f"a: {names[0]}; b: {names[1]}. {result['n']:,} samples in both. Spearman "
        f"{_short(result['spearman'])}, Kendall {_short(result['kendall'])}."
    )
    overlaps = [
        [int(k), share, result["bottom_overlap"][k], int(k) / result["n"]]
        for k, share in result["overlap"].items()
    ]
    table = Table(["k", "top k in common", "bottom k in common", "by chance"], overlaps)
    figure = Figure(folder / "agreement.png", "Ranks against ranks; overlap of the top k.")
    sections = [Section("Agreement of two rankings", [Text(text), table, figure])]
    if "bins" in result:
        by = result["binned_by"]
        note = f"Samples by their score in {by}, against as many from the other ranking's end."
        rows = [[name, b["n"], b["overlap"]] for name, b in result["bins"].items()]
        sections.append(Section("Bins", [Text(note), Table(["bin", "n", "overlap"], rows)]))
    return sections


def _name(source: Any) -> str:
    return ", ".join(map(str, source)) if OmegaConf.is_list(source) else str(source)


def _short(value: float | None) -> str:
    return "undefined (a side is constant)" if value is None else f"{value:.3f}"
