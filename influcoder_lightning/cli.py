"""The `influcoder` command: a Hydra application that runs one recipe.

Only Hydra is imported here, so that ``--help`` is quick; a recipe brings its own imports.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

RECIPES = (
    "quickstart",
    "pipeline",
    "valuate",
    "select",
    "retrain",
    "compare",
    "score",
    "loop",
    "fidelity",
    "icp",
    "agreement",
    "lds",
)
# Sections whose keys are the user's own.
_OPEN = ("select.quota", "lds.scores")
_OVERRIDE = re.compile(r"^(\+{0,2}|~)([A-Za-z_][\w./@:]*)(=|$)")


def main(recipe: str | None = None) -> None:
    """Entry point of the command.

    Errors that the package raises on purpose end as one line on stderr and exit code 1;
    HYDRA_FULL_ERROR=1 shows where they come from.

    Args:
        recipe: run this one, unless the command line names another.
    """
    if recipe is not None and not any(a.startswith("recipe=") for a in sys.argv[1:]):
        sys.argv.insert(1, f"recipe={recipe}")
    _refuse_unknown_keys(sys.argv[1:])
    _app()


@hydra.main(version_base="1.3", config_path="pkg://influcoder_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float | None:
    choices = HydraConfig.get().runtime.choices
    given = [_key(argument) for argument in HydraConfig.get().overrides.task]
    return run_recipe(
        str(choices["recipe"]), cfg, Path(HydraConfig.get().runtime.output_dir), given
    )


def run_recipe(
    recipe: str, cfg: DictConfig, folder: Path, given: list[str] | None = None
) -> float | None:
    """Run a recipe on a composed configuration.

    Args:
        recipe: its name.
        cfg: all keys of conf/config.yaml.
        folder: of the run; nothing is written elsewhere.
        given: keys that were set on the command line.

    Returns:
        What a sweep may minimise: a held-out loss, where the recipe measures one.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from influcoder_lightning.errors import InfluCoderError
    from influcoder_lightning.recipes.config_kinds import check_kinds
    from influcoder_lightning.recipes.progress import quiet
    from influcoder_lightning.recipes.run_folder import absolute_paths, continue_run
    from influcoder_lightning.recipes.stages import begin

    begin()
    _limit_threads()
    module = importlib.import_module(f"influcoder_lightning.recipes.{recipe}")
    try:
        with quiet():
            check_kinds(cfg)
            cfg = absolute_paths(continue_run(cfg, recipe, given or []))
            check_kinds(cfg)
            result = module.run(cfg, folder)
            page = " (start with report.md)" if (folder / "report.md").exists() else ""
            logging.getLogger(__name__).info("run folder: %s%s", folder, page)
    except (InfluCoderError, MisconfigurationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"influcoder: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from error
    return None if result is None else float(result)


def _limit_threads() -> None:
    """Under joblib, jobs share the cores: respect what the launcher (or the user) allows."""
    import torch

    allowed = os.environ.get("OMP_NUM_THREADS", "")
    if allowed.isdigit() and int(allowed) > 0:
        torch.set_num_threads(int(allowed))


def _refuse_unknown_keys(arguments: list[str]) -> None:
    """Refuse keys that no recipe reads, also those added with ``+``, which Hydra would accept."""
    known = _known_keys()
    for argument in arguments:
        match = _OVERRIDE.match(argument)
        if match is None or argument.startswith("-") or (match[1] != "~" and match[3] != "="):
            continue
        key, value = match[2], argument[match.end() :]
        if key == "recipe" and value not in RECIPES and re.fullmatch(r"\w+", value):
            _stop(f"unknown recipe {value!r}{_close(value, RECIPES)} Recipes: {', '.join(RECIPES)}")
        if key in known or key == "recipe" or key.split("/")[0].split(".")[0] == "hydra":
            continue
        if any(key.startswith(f"{name}.") for name in _OPEN):
            continue
        _stop(f"unknown key {key!r}{_close(key, known)} `influcoder --cfg job` lists all keys.")


def _known_keys() -> list[str]:
    """All keys of conf/config.yaml, sections included."""
    from importlib.resources import files

    text = files("influcoder_lightning.conf").joinpath("config.yaml").read_text(encoding="utf-8")
    config = OmegaConf.create(text)
    keys: list[str] = []

    def collect(node: DictConfig, prefix: str) -> None:
        for name in map(str, node):
            if prefix or name not in ("defaults", "hydra"):
                keys.append(f"{prefix}{name}")
                child = OmegaConf.select(node, name)
                if isinstance(child, DictConfig):
                    collect(child, f"{prefix}{name}.")

    assert isinstance(config, DictConfig)
    collect(config, "")
    return keys


def _close(word: str, known: list[str] | tuple[str, ...]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else "."


def _key(override: str) -> str:
    """The key of a command-line override such as ``++train.lr=1e-3``."""
    return override.partition("=")[0].lstrip("+~")


def _stop(message: str) -> None:
    print(f"influcoder: {message}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
