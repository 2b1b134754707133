"""Run folders: what a step takes over from the run that it continues, and where it may write."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from influcoder_lightning.data.row_files import is_hub_name
from influcoder_lightning.data.written_rows import FORMS
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import is_gguf
from influcoder_lightning.run.bare_store import is_store
from influcoder_lightning.run.recipe import Recipe
from influcoder_lightning.run.saved_config import CONFIG, load_config
from influcoder_lightning.run.settings import Settings

log = logging.getLogger(__name__)

RANKING = "ranking.csv"
COMPILED = "compiled"
CONVERSATIONS = "conversations.csv"  # the ranking, where samples are turns of them
STORE = "influence"
SELECTED = FORMS["jsonl"]
_WRITERS = {SELECTED: "select", COMPILED: "compile"}

# What a step takes over from the run it continues. The rest is of the step itself.
_SHARED = (
    "model", "data", "seed", "seeds", "train", "trainer", "optimizer", "scheduler", "retrain",
    "lora", "influence",
)  # fmt: skip


def locate(folder: Path, *names: str) -> Path:
    """A file or folder of a run, or of the runs that it continued, nearest first.

    Args:
        folder: of the run.
        names: that will do, the best first.

    Raises:
        ConfigError: none of the runs has one.
    """
    searched: list[Path] = []
    at: Path | None = folder
    while at is not None and at not in searched:
        for name in names:
            if (at / name).exists():
                return at / name
        if STORE in names and is_bare(at):
            return at
        searched.append(at)
        before = load_config(at)["from"]
        at = None if before is None else Path(before)
    raise ConfigError(
        f"from={folder}: no {names[0]} there"
        + (f", nor in {', '.join(map(str, searched[1:]))}" if searched[1:] else "")
        + f". Run `influcoder recipe={_WRITERS.get(names[0], 'valuate')}` and continue from its "
        "folder."
    )


def is_bare(folder: Path) -> bool:
    """Whether a folder is a store without a run around it, as the callback writes it."""
    return not (folder / CONFIG).exists() and is_store(folder)


def run_of(path: Path) -> Path:
    """The run folder of what `locate` gave; a store without a run is its own."""
    return path.parent if (path.parent / CONFIG).exists() else path


def ranked_by(folder: Path) -> Path:
    """The ``ranking.csv`` of a run or of those that it continued, or the store to rank by.

    A run that failed behind its valuation has the store alone, and that is all a ranking takes.

    Raises:
        ConfigError: they have neither.
    """
    return locate(folder, RANKING, STORE)


def refuse_used_folder(cfg: Settings, recipe: Recipe, folder: Path) -> None:
    """Refuse a folder in which the files of two runs would stand side by side.

    Args:
        cfg: the configuration.
        recipe: which may take up again what is in its folder.
        folder: of the run that is about to begin.

    Raises:
        ConfigError: the folder is that of the run in ``from``, or another run ended there.
    """
    if cfg.resume or cfg.influence.overwrite:
        return
    other = "Choose another with hydra.run.dir=<folder>; from=<folder> goes on from what is there."
    if recipe.reuse:
        other += f" {recipe.reuse}"
    if cfg["from"] is not None and Path(cfg["from"]).resolve() == folder.resolve():
        raise ConfigError(f"{folder} is the run to go on from, and stays as it is. {other}")
    if not recipe.goes_on and (folder / CONFIG).exists() and _has_ended(folder):
        raise ConfigError(f"{folder} already holds a finished run. {other}")


def continue_run(cfg: Settings, recipe: Recipe, given: Collection[str]) -> Settings:
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
    source = Path(cfg["from"])
    earlier = load_config(source)
    if not earlier.complete:
        log.warning("%s did not come to its end; going on from what it has", source)
    for name in (*_SHARED, *recipe.takes_over):
        kept = {key: cfg.at(key) for key in given if _inside(key, name)}
        # What the earlier run calls an absolute path stays one from any directory.
        cfg[name] = earlier[name]
        for key, value in kept.items():
            cfg.put(key, value)
    # A store that the earlier run was allowed to replace is no reason to replace this one.
    if "influence.overwrite" not in given:
        cfg.influence.overwrite = False
    if "resume" not in given:
        cfg.resume = False
    if recipe.adopt is not None:
        recipe.adopt(cfg, source, given)
    return cfg


def absolute_paths(cfg: Settings, home: bool = False) -> Settings:
    """The configuration with local paths made absolute, so that the run repeats from anywhere.

    Args:
        cfg: the configuration.
        home: whether ``~`` stands for a home folder, which it does on the command line alone.

    Raises:
        ConfigError: ``~name`` of a user that there is not.
    """
    cfg = cfg.copy()
    for key in (
        "data.pool", "data.query", "data.eval", "from", "queries", "model.adapter", "lds.models",
        "rank.file",
        "a", "b",
    ):  # fmt: skip
        value = cfg.at(key)
        if isinstance(value, list):
            cfg.put(key, [_absolute(key, v, home) for v in value])
        elif value is not None:
            cfg.put(key, _absolute(key, value, home))
    for name, value in (cfg.lds.scores or {}).items():
        cfg.lds.scores[name] = _absolute(f"lds.scores.{name}", value, home)
    for key in ("model.name", "influence.text_encoder"):  # a folder or a hub name
        value = cfg.at(key)
        if value is not None and (Path(value).is_dir() or is_gguf(str(value))):
            cfg.put(key, str(Path(value).absolute()))
    return cfg


def _absolute(key: str, value: object, home: bool) -> str:
    if key.startswith("data.") and is_hub_name(str(value)):
        return str(value)
    try:
        path = Path(str(value))
        return str((path.expanduser() if home else path).absolute())
    except RuntimeError as error:
        raise ConfigError(f"{key}={value!s:.100}: {error}") from error


def source_folder(cfg: Settings, recipe: str) -> Path:
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


def require(cfg: Settings, key: str, recipe: str) -> Any:
    """The value of a key that a recipe cannot do without.

    Raises:
        ConfigError: it is null.
    """
    value = cfg.at(key)
    if value is None:
        raise ConfigError(f"recipe={recipe} needs {key}: give {key}=... on the command line.")
    return value


def shown_path(path: Path) -> str:
    """Relative where it lies below the working directory."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _has_ended(folder: Path) -> bool:
    """Whether a run ended there; so that one that did not can be repeated in its place."""
    try:
        return bool(load_config(folder).complete)
    except ConfigError:  # somebody else's file, perhaps
        return True


def _inside(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
