"""A Hydra application that runs one recipe.

Only Hydra is imported here, so that ``--help`` is quick; a recipe brings its own imports.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from influcoder_lightning.cli.exit import ending, full_errors, raised_by_hydra
from influcoder_lightning.cli.keys import (
    keys_of_own_files,
    refuse_unknown_arguments,
    refuse_unknown_keys,
)
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.recipes import recipe_called
from influcoder_lightning.run.config import RECIPES, recipe_help


def main(recipe: str | None = None) -> None:
    """Entry point of the command.

    Args:
        recipe: run this one, unless the command line names another.
    """
    if recipe is not None and not any(a.startswith("recipe=") for a in sys.argv[1:]):
        keys = (at for at, a in enumerate(sys.argv) if at and "=" in a and not a.startswith("-"))
        sys.argv.insert(next(keys, len(sys.argv)), f"recipe={recipe}")  # beside the other keys
    if full_errors():
        refuse_unknown_arguments(sys.argv[1:])
        _app()
        return
    with ending(), raised_by_hydra():
        refuse_unknown_arguments(sys.argv[1:])
        _app()


OmegaConf.register_new_resolver("influcoder.recipes", recipe_help, replace=True)


@hydra.main(version_base="1.3", config_path="pkg://influcoder_lightning.conf", config_name="config")
def _app(cfg: DictConfig) -> float | None:
    config = HydraConfig.get()
    given = [_key(argument) for argument in config.overrides.task]
    sources = GlobalHydra.instance().config_loader().get_sources()
    given += keys_of_own_files(config.runtime.choices, sources)
    recipe, folder = str(config.runtime.choices["recipe"]), Path(config.runtime.output_dir)
    if _is_one_of_many() and not any("hydra.run.dir" in o for o in config.overrides.hydra):
        raise ConfigError(
            "several processes were started from outside (torchrun, srun), and each would choose a "
            "run folder of its own: give one for all, hydra.run.dir=<folder>."
        )
    if config.mode == RunMode.MULTIRUN:  # Hydra says which job of the sweep it was
        return _run(recipe, cfg, folder, given)
    return run_recipe(recipe, cfg, folder, given)


def run_recipe(
    recipe: str, cfg: DictConfig, folder: Path, given: list[str] | None = None
) -> float | None:
    """Run a recipe on a composed configuration; errors end as `ending` says.

    Args:
        recipe: its name.
        cfg: all keys of the command.
        folder: of the run; nothing is written elsewhere.
        given: keys that were set on the command line, or in files of the user's own.

    Returns:
        What a sweep may minimise: a held-out loss, where the recipe measures one.
    """
    with ending(lambda: how_to_resume(recipe, cfg, folder)):
        return _run(recipe, cfg, folder, given or [])


def _run(recipe: str, cfg: DictConfig, folder: Path, given: list[str]) -> float | None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    refuse_unknown_keys(cfg)
    if recipe not in RECIPES:
        raise ConfigError(
            f"recipe={recipe} is none of {', '.join(RECIPES)}. Settings of your own go on top of "
            "one: +experiment=<name>, see docs/how-to/hydra.md."
        )
    from influcoder_lightning.cli.summary import print_summary
    from influcoder_lightning.run.config_values import check_kinds
    from influcoder_lightning.run.loggers import close_loggers
    from influcoder_lightning.run.progress import quiet
    from influcoder_lightning.run.run_folder import (
        absolute_paths,
        continue_run,
        refuse_used_folder,
    )
    from influcoder_lightning.run.saved_config import begin_config
    from influcoder_lightning.run.settings import resolved
    from influcoder_lightning.run.stages import begin
    from influcoder_lightning.run.together import is_first, together
    from influcoder_lightning.run.trainer_keys import with_short_names
    from influcoder_lightning.threads import begin_run

    begin()
    found = recipe_called(recipe)
    begun = perf_counter()
    with quiet():
        settings = resolved(cfg)  # from here on no text is interpolated
        check_kinds(settings)
        settings = continue_run(absolute_paths(settings, home=True), found, given)
        settings = with_short_names(absolute_paths(settings), given)
        if found.settle is not None:
            found.settle(settings, given)
        check_kinds(settings)
        begin_run(settings.parallel.threads)
        with ExitStack() as ending_with_it:
            own = folder
            if found.trains:
                own = ending_with_it.enter_context(
                    together(settings, folder, partial(_helper, recipe))
                )
            first = is_first()
            if first:
                refuse_used_folder(settings, found, folder)
            begin_config(settings, own)
            ending_with_it.callback(close_loggers)
            result = found.run(settings, own)
    if first:
        print_summary(recipe, found, folder, perf_counter() - begun)
    return None if result is None else float(result)


def _helper(recipe: str) -> list[str]:
    """The command of a further process of a run."""
    return [sys.executable, "-m", "influcoder_lightning.cli.helper", recipe]


def _is_one_of_many() -> bool:
    """Whether torchrun, srun or the like started several processes of this command."""
    names = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    return any(os.environ.get(name, "1") not in ("", "1") for name in names)


def how_to_resume(recipe: str, cfg: DictConfig, folder: Path) -> str:
    """What to do after an interruption."""
    again = f"the same command with hydra.run.dir={folder}"
    return recipe_called(recipe).how_to_resume(cfg, again, folder)


def _key(override: str) -> str:
    """The key of a command-line override such as ``++train.lr=1e-3``."""
    return override.partition("=")[0].lstrip("+~")
