"""`config.yaml` of a run folder: written by every recipe, read by the next one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.influence.atomic import atomic_path

CONFIG = "config.yaml"
RANKING = "ranking.csv"
SELECTED = "selected.jsonl"
_WRITERS = {SELECTED: "select"}

# What a step takes over from the run it continues. The rest is of the step itself.
_SHARED = ("model", "data", "seed", "seeds", "train", "retrain", "lora", "influence")
_ALSO = {
    "pipeline": ("rank", "select"),
    "valuate": ("rank",),
    "select": ("rank", "select"),
    "compare": ("rank", "select"),
    "retrain": ("select",),
}


def locate(folder: Path, name: str) -> Path:
    """A file or folder of a run, or of the runs that it continued, nearest first.

    Raises:
        ConfigError: none of them has it.
    """
    searched: list[Path] = []
    at: Path | None = folder
    while at is not None and at not in searched:
        if (at / name).exists():
            return at / name
        searched.append(at)
        before = load_config(at)["from"]
        at = None if before is None else Path(before)
    raise ConfigError(
        f"from={folder}: no {name} there"
        + (f", nor in {', '.join(map(str, searched[1:]))}" if searched[1:] else "")
        + f". Run `influcoder recipe={_WRITERS.get(name, 'valuate')}` and continue from its folder."
    )


def save_config(cfg: DictConfig, folder: Path, **facts: Any) -> None:
    """Write ``config.yaml``: every key, the command, library versions, and ``facts``.

    Args:
        cfg: the composed configuration.
        folder: of the run.
        facts: what the run found out and a later step needs, such as the pool's fingerprint.
    """
    from influcoder_lightning.valuation import library_versions

    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    content |= {"facts": facts, "versions": library_versions(), "command": command}
    with atomic_path(folder / CONFIG) as part:
        part.write_text(OmegaConf.to_yaml(OmegaConf.create(content)), encoding="utf-8")


def load_config(folder: Path) -> DictConfig:
    """The configuration of a finished run.

    Raises:
        ConfigError: the folder is no run folder, or its file is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(
            f"from={folder}: no {CONFIG} there, so it is no run folder. Give the folder that an "
            "earlier `influcoder` run wrote (its hydra.run.dir)."
        )
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} holds no keys; it was not written by `influcoder`.")
    return loaded


def continue_run(cfg: DictConfig, recipe: str, given: Collection[str]) -> DictConfig:
    """The configuration with everything that the run in ``from`` decides.

    Args:
        cfg: as composed.
        recipe: which takes over what.
        given: keys set on the command line, which hold. A whole section may be named.

    Raises:
        ConfigError: ``from`` is no run folder.
    """
    cfg = cfg.copy()
    if cfg["from"] is None:
        return cfg
    earlier = load_config(Path(cfg["from"]))
    with open_dict(cfg):
        for name in (*_SHARED, *_ALSO.get(recipe, ())):
            kept = {key: OmegaConf.select(cfg, key) for key in given if _inside(key, name)}
            if name in earlier:
                # What the earlier run calls an absolute path stays one from any directory.
                cfg[name] = earlier[name]
            for key, value in kept.items():
                OmegaConf.update(cfg, key, value, merge=False)
        # A store that the earlier run was allowed to replace is no reason to replace this one.
        if "influence.overwrite" not in given:
            cfg.influence.overwrite = False
        if recipe == "retrain" and "data.pool" not in given:
            cfg.data.pool = str(locate(Path(cfg["from"]), SELECTED).absolute())
    return cfg


_LEAST = {
    "seed": 0,
    "select.k": 1,
    "retrain.steps": 1,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.max_length": 1,
    "train.warmup": 0,
}


def check_numbers(cfg: DictConfig) -> None:
    """Refuse words where numbers are meant, and numbers too small to mean anything.

    Raises:
        ConfigError: names the key.
    """
    for key, least in _LEAST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and (not _is_number(value, int) or value < least):
            raise ConfigError(f"{key}={value} must be a whole number of at least {least}.")
    for key in ("train.lr", "train.weight_decay", "train.epochs"):
        value = OmegaConf.select(cfg, key)
        if not _is_number(value, int | float) or value < 0:
            raise ConfigError(f"{key}={value} must be a number of at least 0.")
    seeds = cfg.seeds if OmegaConf.is_list(cfg.seeds) else [None]
    if not all(_is_number(seed, int) for seed in seeds):
        raise ConfigError(f"seeds={cfg.seeds} must be a list of whole numbers, like [0,1,2].")


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def absolute_paths(cfg: DictConfig) -> DictConfig:
    """The configuration with local paths made absolute, so that the run repeats from anywhere."""
    cfg = cfg.copy()
    for key in ("data.pool", "data.query", "data.eval", "from", "queries", "model.adapter"):
        value = OmegaConf.select(cfg, key)
        if value is not None:
            OmegaConf.update(cfg, key, str(Path(value).expanduser().absolute()))
    for key in ("a", "b"):  # files or lists of files
        value = OmegaConf.select(cfg, key)
        if OmegaConf.is_list(value):
            OmegaConf.update(cfg, key, [str(Path(str(v)).expanduser().absolute()) for v in value])
        elif value is not None:
            OmegaConf.update(cfg, key, str(Path(str(value)).expanduser().absolute()))
    for key in ("model.name", "influence.text_encoder"):  # a folder or a hub name
        value = OmegaConf.select(cfg, key)
        if value is not None and Path(value).is_dir():
            OmegaConf.update(cfg, key, str(Path(value).absolute()))
    return cfg


def source_folder(cfg: DictConfig, recipe: str) -> Path:
    """The run folder that a step continues.

    Raises:
        ConfigError: ``from`` is not given, or not there.
    """
    if cfg["from"] is None:
        raise ConfigError(
            f"recipe={recipe} continues a run: give its folder, `from=<run folder>` (written by "
            "recipe=valuate, pipeline or quickstart)."
        )
    return Path(cfg["from"])


def require(cfg: DictConfig, key: str, recipe: str) -> Any:
    """The value of a key that a recipe cannot do without.

    Raises:
        ConfigError: it is null.
    """
    value = OmegaConf.select(cfg, key)
    if value is None:
        raise ConfigError(f"recipe={recipe} needs {key}: give {key}=... on the command line.")
    return value


def plain(node: Any) -> Any:
    """A section of the configuration as plain dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)


def _inside(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
