"""Runs a recipe on keys as the command line gives them."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from influcoder_lightning.cli import run_recipe


def run(recipe: str, folder: Path, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_module("influcoder_lightning.conf", version_base="1.3"):
        cfg = compose("config", overrides=[f"recipe={recipe}", *overrides])
    folder.mkdir(parents=True, exist_ok=True)
    return run_recipe(recipe, cfg, folder, [o.partition("=")[0] for o in overrides])
