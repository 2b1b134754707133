"""Files that several recipes write: what they are, and what they say when a run ends."""

from __future__ import annotations

import csv
import json
from array import array
from pathlib import Path
from typing import Any

from influcoder_lightning.data.written_rows import FORMS
from influcoder_lightning.influence.doubts import SURE, ties, unsure
from influcoder_lightning.report.findings.comparison import Comparison
from influcoder_lightning.run.recipe import Facts, Output
from influcoder_lightning.run.run_folder import CONVERSATIONS, RANKING, SELECTED, STORE
from influcoder_lightning.spreadsheet import from_cell
from influcoder_lightning.store import schema

FIGURES = "the figures of this page"
CONFIDENCE = "confidence.csv"
AS_TABLE = "the same as a table"


def read_json(path: Path) -> Any:
    """The content of a file that a recipe wrote."""
    return json.loads(path.read_bytes())


def arm_facts(found: Comparison) -> Facts:
    """The held-out losses of all arms of a comparison."""
    facts = {
        "held-out loss": f"nats per response token, {found['seeds']} seeds, 95 % interval",
    }
    for name, arm in found["arms"].items():
        interval = "  [{:.4f}, {:.4f}]".format(*arm["ci95"]) if arm["ci95"] else ""
        facts[f"  {name}"] = f"{arm['mean']:.4f}{interval}"
    return facts


def n_lines(path: Path) -> int:
    """Lines of a file, however long it is."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _ranking(path: Path) -> Facts:
    """Read line by line: a ranking may have millions."""
    scores = array("d")
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        best = None
        for line in lines:
            best = best or line
            scores.append(float(line["score"] or "nan"))
    if best is None:
        return {"ranked": "0 samples"}
    name = from_cell(best["sample_id"])
    facts = {"ranked": f"{len(scores):,} samples; best is {name}, score {best['score']:.7}"}
    if sentence := ties(scores):
        facts["but"] = sentence
    return facts


def share_sure(path: Path) -> float:
    """Share of the samples in a ``confidence.csv`` whose score is sure."""
    with path.open(encoding="utf-8", newline="") as file:
        sure = [float(line["confidence"]) >= SURE for line in csv.DictReader(file)]
    return sum(sure) / max(1, len(sure))


def sureness(path: Path) -> Facts:
    """How sure the scores are."""
    share = share_sure(path)
    doubt = unsure(share)
    return {"sure": f"{share:.0%} of the scores"} | ({} if doubt is None else {"careful": doubt})


def _valuation(path: Path) -> Facts:
    if not (path / schema.FILE_NAME).is_file():
        return {}
    from influcoder_lightning.store.store_file import StoreFile

    store = StoreFile(path)
    counts = store.attributes["counts"]
    reasons = ", ".join(f"{n:,} ({why})" for why, n in counts["kept_out"].items())
    facts = {"valued": f"{counts['written']:,} rows; kept out: {reasons or 'none'}"}
    drift = store.windows["drift"].dropna()
    if len(drift):
        facts["drift"] = (
            f"{drift.mean():.2f} mean, {drift.min():.2f} lowest of {len(drift):,} windows "
            "(1: the queries did not turn)"
        )
    return facts


COMPARISON = (
    Output(
        "comparison.json",
        "held-out losses of all arms and seeds",
        facts=lambda path: arm_facts(read_json(path)),
    ),
    Output("comparison.csv", AS_TABLE),
    Output("arms", "the loss of every arm and seed, so that the same command goes on behind them"),
)
RANKED = Output(
    RANKING, "score and rank of every sample (rank 1 is the most helpful)", "ranking", _ranking
)
CONVERSED = Output(
    CONVERSATIONS, "score and rank of every conversation: the mean over its turns", "conversations"
)


def _n_of_table(path: Path) -> Facts:
    from pyarrow.parquet import read_metadata

    return {"chosen": f"{read_metadata(path).num_rows:,} samples"}


def _n_of_folder(path: Path) -> Facts:
    from datasets import load_from_disk

    return {"chosen": f"{len(load_from_disk(str(path))):,} samples"}


_CHOSEN = "the chosen rows with their influence score"
CHOSEN = (
    Output(SELECTED, _CHOSEN, "chosen rows", lambda path: {"chosen": f"{n_lines(path):,} samples"}),
    Output(FORMS["parquet"], f"{_CHOSEN}, as Parquet", "chosen rows", _n_of_table),
    Output(FORMS["dataset"], f"{_CHOSEN}, as a folder of `datasets`", "chosen rows", _n_of_folder),
)
ADAPTER = Output("adapter", "the LoRA trained on the chosen rows (first seed)", "trained LoRA")
VALUED = Output(
    STORE,
    "the influence store: codes of all samples and queries, and the towers",
    "store",
    _valuation,
)
MODELS = Output("models", "every trained LoRA with its losses")
