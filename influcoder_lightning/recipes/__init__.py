"""What the command can do: one file per recipe, which declares all there is to know of it."""

from __future__ import annotations

import importlib

from influcoder_lightning.run.recipe import Recipe


def recipe_called(name: str) -> Recipe:
    """The recipe of a name in `run.config.RECIPES`: what its file calls RECIPE.

    Only that file is imported, so that a run waits for no other recipe's libraries.
    """
    recipe: Recipe = importlib.import_module(f"{__name__}.{name}").RECIPE
    return recipe
