"""Runs that go on from others: what they take over, and what they leave alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from running import TINY, error_of, run

from influcoder_lightning.recipes import pipeline
from influcoder_lightning.run.saved_config import load_config


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


@pytest.fixture(scope="module")
def failed(base, tmp_path_factory) -> Path:
    """A pipeline that valued its pool and then failed."""
    folder = tmp_path_factory.mktemp("failed")
    files = [f"data.{name}={base / 'data' / f'{name}.jsonl'}" for name in ("pool", "query", "eval")]
    settings = [key for key in TINY if not key.startswith("quickstart")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "choose", fail)
        with pytest.raises(SystemExit):
            run("pipeline", folder, f"model.name={base / 'model'}", *files, *settings)
    return folder


def fail(*_: object) -> None:
    raise RuntimeError("injected")


def test_config_yaml_is_there_before_anything_is_read(tmp_path, capsys):
    message = error_of(capsys, "valuate", tmp_path, f"data.pool={tmp_path}/no.jsonl", "seed=7")
    assert "no such file" in message
    config = load_config(tmp_path)
    assert (config.seed, config.complete) == (7, False)


def test_a_failure_behind_the_valuation_costs_no_valuation(failed, tmp_path, caplog):
    assert load_config(failed).complete is False
    run("select", tmp_path / "chosen", f"from={failed}", "select.k=5")
    assert "did not come to its end" in caplog.text
    small = ("retrain.steps=1", "seeds=[0]")
    run("retrain", tmp_path / "trained", f"from={tmp_path / 'chosen'}", *small)
    run("compare", tmp_path / "compared", f"from={failed}", "select.k=5", *small)
    assert json.loads((tmp_path / "compared" / "comparison.json").read_text())["k"] == 5
    assert load_config(tmp_path / "compared").complete is True


def test_a_valuation_that_could_not_be_ranked_is_ranked_later(failed, tmp_path):
    unranked = tmp_path / "unranked"
    shutil.copytree(failed, unranked)
    (unranked / "ranking.csv").unlink()
    run("select", tmp_path / "chosen", f"from={unranked}", "select.k=5")
    assert (tmp_path / "chosen" / "ranking.csv").read_bytes() == (
        failed / "ranking.csv"
    ).read_bytes()
