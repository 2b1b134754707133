"""queries: how a run's queries fared, at every window and at the end."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path
from influcoder_lightning.influence.row_scores import unit_rows
from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.recipes.pages import common as page
from influcoder_lightning.recipes.pages.queries import query_sections
from influcoder_lightning.run.outputs import FIGURES, read_json
from influcoder_lightning.run.recipe import Facts, Output, Recipe
from influcoder_lightning.run.run_folder import STORE, locate, source_folder
from influcoder_lightning.run.saved_config import save_config
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.spreadsheet import as_cell

log = logging.getLogger(__name__)

OUTPUTS = (
    Output("queries.json", FIGURES, facts=lambda path: _facts(read_json(path))),
    Output("queries.csv", "loss and drift of every query at every window", "queries"),
)


def run(cfg: Settings, folder: Path) -> None:
    """Write ``queries.csv``, ``queries.json`` and a report; reads the store alone.

    Raises:
        ConfigError: the run had no queries.
    """
    store = InfluenceStore(locate(source_folder(cfg, "queries"), STORE))
    if not len(store.query_ids):
        raise ConfigError(
            f"{store.path} holds no queries: value with data.query=..., or add some by "
            "recipe=score queries=<file>."
        )
    table = takes(store)
    first, last = (_losses(table, which) for which in ("first", "last"))
    figures = {
        "queries": len(first),
        "windows": len(store.windows),
        "first": float(first.mean()),
        "last": float(last.mean()),
        "fell": int((last < first).sum()),
    }
    with durable_path(folder / "queries.csv") as part:
        named = table.assign(query_id=[as_cell(str(name)) for name in table["query_id"]])
        named.to_csv(part, index=False, quoting=csv.QUOTE_MINIMAL)
    with durable_path(folder / "queries.json") as part:
        part.write_text(pd.Series(figures).to_json(indent=1) + "\n", encoding="utf-8")
    save_config(cfg, folder)
    page.write(folder, query_sections(table, figures, store.query_texts()), OUTPUTS)


def takes(store: InfluenceStore) -> pd.DataFrame:
    """One row per query and take, in time: query_id, window, at_end, step, loss [nats per response
    token], drift (cosine of the query's gradient with the one at the take before; NaN at the first,
    and where two takes are of different code spaces)."""
    windows = store.windows
    plan = [(int(w), False) for w in windows["window"]] + [(int(windows["window"].iloc[-1]), True)]
    if store.attributes["config"].get("mode") == "frozen":
        plan.pop()  # nothing has moved
    parts, before = [], None
    for window, at_end in plan:
        records = store.query_records(window, end=at_end)
        version = int(records["tower_version"].iloc[0])
        codes = unit_rows(store.query_codes(window, end=at_end))
        drift = np.full(len(records), np.nan)
        if before is not None and before[0] == version and before[1].shape == codes.shape:
            drift = (before[1] * codes).sum(1)
        before = version, codes
        row = windows[windows["window"] == window].iloc[0]
        parts.append(
            pd.DataFrame(
                {
                    "query_id": records["sample_id"],
                    "window": window,
                    "at_end": int(at_end),
                    "step": int(row["end_step" if at_end else "start_step"]),
                    "loss": records["loss"].astype(float),
                    "drift": drift,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _losses(table: pd.DataFrame, which: str) -> pd.Series:
    """Loss of each query at its first or last take."""
    return table.groupby("query_id", sort=False)["loss"].agg(which)


def _facts(found: dict[str, float]) -> Facts:
    return {
        "query loss": f"{found['first']:.4f} at the start, {found['last']:.4f} at the end (nats "
        "per response token)",
        "fell for": f"{found['fell']:,.0f} of {found['queries']:,.0f} queries, over "
        f"{found['windows']:,.0f} windows",
    }


RECIPE = Recipe(run, OUTPUTS, next_command=page.choose_some)
