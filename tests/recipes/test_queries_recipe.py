"""recipe=queries: losses and drift of a run's queries as its store has them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import FineTuning, loader, tokens, trainer
from running import error_of, run

from influcoder_lightning import InfluenceCallback, InfluenceStore


@pytest.fixture
def source(tmp_path):
    """A run of three windows."""
    folder = tmp_path / "valued"
    callback = InfluenceCallback(
        str(folder / "influence"),
        query_dataloader=loader(tokens(4, seed=62), 2),
        sketch_dim=64,
        code_dim=8,
        refresh_queries_every_n_steps=2,
    )
    trainer(folder, [callback]).fit(FineTuning(), loader(tokens(18), 3))
    (folder / "config.yaml").write_text("train: {lr: 0.001}\n")
    return folder


def test_the_table_is_what_the_store_holds(source, tmp_path, capsys):
    run("queries", tmp_path / "out", f"from={source}")
    table = pd.read_csv(tmp_path / "out" / "queries.csv")
    store = InfluenceStore(source)
    at = []
    assert len(store.windows) == 3
    for window in store.windows["window"]:
        at.append((store.query_records(window), store.query_codes(window)))
    at.append((store.query_records(end=True), store.query_codes(end=True)))
    expected = np.concatenate([records["loss"] for records, _ in at])
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-6)
    n = len(store.query_ids)
    assert table["drift"][:n].isna().all()
    for number, ((before, a), (after, b)) in enumerate(pairwise(at), start=1):
        found = table["drift"][number * n : (number + 1) * n].to_numpy()
        if before["tower_version"][0] != after["tower_version"][0]:
            assert np.isnan(found).all()
            continue
        a, b = a.astype(float), b.astype(float)
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(found, cosines, atol=1e-3)
    figures = json.loads((tmp_path / "out" / "queries.json").read_text())
    assert figures["queries"] == n
    said = capsys.readouterr().out
    assert f"of {n} queries" in said
    assert "queries.csv" in said
    assert "How the queries fared" in (tmp_path / "out" / "report.md").read_text()


def test_a_run_without_queries_is_refused(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(InfluenceStore, "query_ids", np.empty(0, dtype=np.int64))
    assert "holds no queries" in error_of(capsys, "queries", tmp_path / "out", f"from={source}")
