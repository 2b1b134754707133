"""The keys that there are, for Hydra, too; and the recipes, as `conf/` names them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from influcoder_lightning.configuration.key import keys, sections, values
from influcoder_lightning.configuration.sections import Config

_CONF = files("influcoder_lightning.conf")
RECIPES = tuple(
    sorted(
        path.name.removesuffix(".yaml")
        for path in (_CONF / "recipe").iterdir()
        if path.name.endswith(".yaml")
    )
)


@cache
def defaults() -> DictConfig:
    """The keys of the command with their defaults."""
    return OmegaConf.create(values(Config))


@cache
def all_keys() -> tuple[str, ...]:
    """The names of all keys, and of their sections."""
    return tuple(name for name, _ in sections(Config)) + tuple(key.name for key in keys(Config))


# Values and no types: a typed node would take a folder called 1e3 for "1000.0" and "yes" for true,
# without a word. `check_kinds` compares with the types, also what a run folder's file holds.
ConfigStore.instance().store(name="keys", node=defaults(), provider="influcoder")


def recipe_help() -> str:
    """Every recipe with the first line of its file in conf/, for ``--help``."""
    width = max(map(len, RECIPES))
    return "\n".join(f"  {name:<{width}}  {_head(name)}" for name in RECIPES)


def _head(recipe: str) -> str:
    lines = (_CONF / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[1].removeprefix("# ").removesuffix(".")
