"""The agreement recipe: its files, its key values, and its one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from influcoder_lightning import Ranking
from influcoder_lightning.cli import run_recipe

N = 40


@pytest.fixture
def scores(tmp_path) -> Path:
    """A run folder that ranks by a share of queries, and a matrix in two shards from elsewhere."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, N))
    share = (matrix + 0.3 * rng.normal(size=matrix.shape) > 0).mean(axis=0)
    Ranking(np.arange(N), share, method="icp").save(tmp_path / "icp_run" / "ranking.csv")
    np.save(tmp_path / "s0.npy", matrix[:, :25])
    np.save(tmp_path / "s1.npy", matrix[:, 25:])
    return tmp_path


def run(folder: Path, *overrides: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=["recipe=agreement", *overrides])
    folder.mkdir(parents=True, exist_ok=True)
    run_recipe("agreement", cfg, folder, [o.partition("=")[0] for o in overrides])


def test_files_of_a_run(scores, monkeypatch):
    folder = scores / "run"
    monkeypatch.chdir(scores)
    run(folder, "a=icp_run", "b=[s0.npy,s1.npy]", "agreement.ks=[5,10]")
    assert {path.name for path in folder.iterdir()} == {
        "agreement.json",
        "agreement.png",
        "config.yaml",
        "report.html",
        "report.md",
    }
    result = json.loads((folder / "agreement.json").read_text())
    assert result["n"] == N
    assert 0.5 < result["kendall"] < result["spearman"] < 1
    assert set(result["overlap"]) == set(result["bottom_overlap"]) == {"5", "10"}
    assert result["binned_by"] == "a"
    names = ["> 0.5", "> 0.6", "> 0.7", "> 0.8", "> 0.9", "<= 0.5"]
    assert list(result["bins"]) == names
    for found in result["bins"].values():
        assert set(found) == {"n", "overlap"}
    counts = [result["bins"][name]["n"] for name in names]
    assert counts[:5] == sorted(counts[:5], reverse=True)
    assert counts[0] + counts[-1] == N
    page = (folder / "report.md").read_text()
    for word in ("agreement.png", "Spearman", "icp\\_run", "by chance", "Score bins"):
        assert word in page
    # The paths are whole, so that the run repeats from anywhere.
    config = OmegaConf.load(folder / "config.yaml")
    assert list(config.b) == [str(scores / "s0.npy"), str(scores / "s1.npy")]


def test_many_samples_of_many_queries(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(100, 52_002)).astype(np.float32)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", a.mean(axis=0) + 0.1 * rng.normal(size=52_002))
    run(tmp_path / "run", f"a={tmp_path / 'a.npy'}", f"b={tmp_path / 'b.npy'}")
    result = json.loads((tmp_path / "run" / "agreement.json").read_text())
    assert list(result["overlap"]) == ["520", "2600", "5200", "13000"]
    # Two normal variables of equal variance, one the other plus noise: correlation 1/sqrt(2).
    assert result["spearman"] == pytest.approx(0.69, abs=0.02)
    assert result["kendall"] == pytest.approx(0.5, abs=0.02)
    assert "bins" not in result


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["b=icp_run"], "recipe=agreement needs a: give a=..."),
        (["a=icp_run"], "needs b"),
        (["a=icp_run", "b=no.csv"], "no.csv: no such file"),
        (["a=icp_run", "b=[]"], "no score file was given"),
        (["a=icp_run", "b=s0.npy"], "15 only in a"),
        (["a=icp_run", "b=[s0.npy,s1.npy]", "agreement.ks=5"], "must be a list of whole numbers"),
        (["a=icp_run", "b=[s0.npy,s1.npy]", "agreement.ks=[41]"], "k=41 does not fit 40 samples"),
        (["a=icp_run", "b=[s0.npy,s1.npy]", "agreement.ks=[few]"], "k='few' does not fit"),
        (["a=icp_run", "b=s0.npy", "agreement.only_common=maybe"], "must be true or false"),
    ],
)
def test_errors_are_one_line(scores, monkeypatch, capsys, overrides, words):
    monkeypatch.chdir(scores)
    with pytest.raises(SystemExit) as stop:
        run(scores / "run", *overrides)
    assert stop.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert {path.name for path in (scores / "run").iterdir()} <= {"config.yaml"}


def test_only_common_samples(scores, monkeypatch, caplog):
    monkeypatch.chdir(scores)
    run(scores / "run", "a=icp_run", "b=s0.npy", "agreement.only_common=true")
    assert json.loads((scores / "run" / "agreement.json").read_text())["n"] == 25
    assert "15 samples left out: only in a" in caplog.text
