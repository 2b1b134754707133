"""Runs that go on from others: what they take over, and what they leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import TINY, error_of, run


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A finished quickstart."""
    folder = tmp_path_factory.mktemp("base")
    run("quickstart", folder, *TINY)
    return folder


def test_a_finished_run_stays_as_it_is(base, tmp_path, capsys):
    ranking, config = base / "ranking.csv", base / "config.yaml"
    before = ranking.read_bytes(), config.read_bytes()
    assert "stays as it is" in error_of(capsys, "select", base, f"from={base}", "select.k=3")
    run("select", tmp_path / "chosen", f"from={base}", "select.k=3", "rank.method=self")
    other = ("select", tmp_path / "chosen", f"from={base}", "select.k=3")
    assert "already holds a finished run" in error_of(capsys, *other)
    assert (ranking.read_bytes(), config.read_bytes()) == before


def test_compare_after_retrain_takes_the_pool_that_was_ranked(base, tmp_path, caplog):
    small = ("retrain.steps=1", "seeds=[0,1]")
    run("retrain", tmp_path / "trained", f"from={base}", *small)
    run("compare", tmp_path / "compared", f"from={tmp_path / 'trained'}", "train.steps=7", *small)
    comparison = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert comparison["steps"] == 1
    assert "train.steps has no effect" not in caplog.text, "retrain.steps was given"
    run("retrain", tmp_path / "again", f"from={tmp_path / 'trained'}", "train.steps=7")
    assert "train.steps has no effect here: retrain.steps=1" in caplog.text
