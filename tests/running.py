"""Runs a recipe on keys as the command line gives them."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file
from undrawn import undrawn

from influcoder_lightning.cli import run_recipe

TINY = [
    "quickstart.n_pool=60",
    "quickstart.n_query=6",
    "quickstart.n_eval=6",
    "quickstart.pretrain_steps=4",
    "quickstart.hidden_size=32",
    "train.epochs=1",
    "influence.sketch_dim=256",
    "influence.code_dim=16",
    "influence.refresh_queries_every_n_steps=3",
    "select.k=10",
    "retrain.steps=2",
]


def run(recipe: str, folder: Path, *overrides: str, drawn: bool = False):
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=[f"recipe={recipe}", *overrides])
    folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if drawn else undrawn():
        return run_recipe(recipe, cfg, folder, [o.partition("=")[0] for o in overrides])


def other_weights(model: Path, folder: Path) -> Path:
    """A model folder of the same name in ``folder``, whose weights are others."""
    copy = shutil.copytree(model, folder / model.name)
    weights = load_file(copy / "model.safetensors")
    save_file({k: -v for k, v in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    return copy


def error_of(capsys, recipe: str, folder: Path, *overrides: str) -> str:
    """The one line on stderr that the command ends with."""
    with pytest.raises(SystemExit) as stop:
        run(recipe, folder, *overrides)
    assert stop.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("influcoder: ")
    return lines[0]
