"""The keys that there are, and the recipes, as `conf/` names them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from omegaconf import DictConfig, OmegaConf

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
    """conf/config.yaml without the sections that are Hydra's own."""
    config = OmegaConf.create((_CONF / "config.yaml").read_text(encoding="utf-8"))
    assert isinstance(config, DictConfig)
    for name in ("defaults", "hydra"):
        config.pop(name)
    return config


@cache
def all_keys() -> tuple[str, ...]:
    """All keys of conf/config.yaml, sections included."""

    def collect(node: DictConfig, prefix: str) -> Iterator[str]:
        for name in map(str, node):
            yield f"{prefix}{name}"
            child = OmegaConf.select(node, name)
            if isinstance(child, DictConfig):
                yield from collect(child, f"{prefix}{name}.")

    return tuple(collect(defaults(), ""))


def recipe_help() -> str:
    """Every recipe with the first line of its file in conf/, for ``--help``."""
    width = max(map(len, RECIPES))
    return "\n".join(f"  {name:<{width}}  {_head(name)}" for name in RECIPES)


def _head(recipe: str) -> str:
    lines = (_CONF / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[1].removeprefix("# ").removesuffix(".")
