"""`logger=...`: what each writes, all of it in the run folder, also over a sweep's runs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf

from influcoder_lightning import write_jsonl
from influcoder_lightning.cli import run_recipe
from influcoder_lightning.data.tiny_model import build_tiny_llama, build_tokenizer
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.run.loggers import close_loggers, run_loggers


def composed(*overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """Keys of a valuation of a few seconds."""
    folder = tmp_path_factory.mktemp("loggers")
    for name, n in (("pool", 16), ("query", 3), ("eval", 3)):
        rows = [{"prompt": f"{name} {i}", "response": f"word {i}"} for i in range(n)]
        write_jsonl(rows, folder / f"{name}.jsonl")
    text = (folder / "pool.jsonl").read_text()
    build_tiny_llama(
        folder / "model", build_tokenizer([text], 300, folder / "model"), hidden_size=16
    )
    data = [f"data.{name}={folder / name}.jsonl" for name in ("pool", "query", "eval")]
    sizes = ["influence.sketch_dim=64", "influence.code_dim=8", "retrain.steps=1", "select.k=4"]
    return [f"model.name={folder / 'model'}", *data, *sizes, "train.max_length=64", "seeds=[0,1]"]


def run(recipe: str, folder: Path, *overrides: str) -> Path:
    cfg = composed(f"recipe={recipe}", *overrides)
    folder.mkdir()
    run_recipe(recipe, cfg, folder, [key.partition("=")[0] for key in overrides])
    return folder


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found.Tags()


def test_several_at_once_hold_the_training_the_ranking_and_the_comparison(settings, tmp_path):
    options = ["logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true"]
    folder = run("pipeline", tmp_path / "run", *settings, *options)
    table = pd.read_csv(folder / "metrics.csv")
    assert {"train_loss", "influcoder/drift", "influcoder/comparison/top_k"} <= set(table.columns)
    arms = json.loads((folder / "comparison.json").read_text())["arms"]
    logged = table["influcoder/comparison/top_k"].dropna()
    assert logged.tolist() == pytest.approx([arms["top_k"]["mean"]])
    tags = events(folder / "tensorboard")
    assert {"train_loss", "influcoder/rows_written"} <= set(tags["scalars"])
    assert tags["images"]
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    saved = OmegaConf.load(folder / "config.yaml")
    assert set(saved.logger) == {"csv", "tensorboard", "wandb"}


def test_a_step_that_goes_on_has_loggers_of_its_own(settings, tmp_path):
    """Classes that an earlier run's file names are not made."""
    first = run("valuate", tmp_path / "first", *settings, "logger=csv")
    file = first / "config.yaml"
    file.write_text(file.read_text().replace("lightning.pytorch.loggers.CSVLogger", "os.getcwd"))
    second = run("select", tmp_path / "second", f"from={first}", "rank.method=tracin")
    assert not (second / "metrics.csv").exists()
    third = run("select", tmp_path / "third", f"from={first}", "rank.method=tracin", "logger=csv")
    assert "influcoder/ranking/best" in (third / "metrics.csv").read_text()


def test_the_steps_of_a_run_share_loggers_and_the_next_run_has_others(tmp_path):
    cfg = composed("logger=[csv,tensorboard]")
    first = run_loggers(cfg, tmp_path)
    assert [type(logger) for logger in first] == [CSVLogger, TensorBoardLogger]
    assert run_loggers(cfg, tmp_path) is first
    close_loggers()
    assert run_loggers(cfg, tmp_path) is not first
    close_loggers()


@pytest.mark.parametrize("overrides", [["logger=none"], ["logger=[]"], []])
def test_no_logger(tmp_path, overrides):
    assert run_loggers(composed(*overrides), tmp_path) == []
    close_loggers()


def test_the_older_key_for_a_table(tmp_path):
    assert [type(x) for x in run_loggers(composed("train.log_csv=true"), tmp_path)] == [CSVLogger]
    close_loggers()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "os.getcwd"}, "logger.mine"),
        ({"_target_": "pathlib.Path"}, "is no Lightning logger"),
        ({"_target_": "no.such.Logger"}, "logger.mine"),
        ({"_target_": "lightning.pytorch.loggers.CSVLogger", "colour": 1}, "colour"),
        ({"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "/x"}, "outside"),
        ({"save_dir": "x"}, "is no logger"),
    ],
)
def test_what_is_no_logger_is_refused(tmp_path, node, words):
    cfg = composed()
    cfg = OmegaConf.merge(OmegaConf.to_container(cfg), {"logger": {"mine": node}})
    with pytest.raises(ConfigError, match=words):
        run_loggers(cfg, tmp_path)
    assert not list(tmp_path.iterdir())
