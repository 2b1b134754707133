"""`config.yaml` of a run folder: written by every recipe, read by the next one."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from influcoder_lightning.data.files import read_whole, why_no_file
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.influence.atomic import atomic_path
from influcoder_lightning.keys import defaults
from influcoder_lightning.recipes.config_kinds import check_kinds

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
RANKING = "ranking.csv"
SELECTED = "selected.jsonl"
_WRITERS = {SELECTED: "select"}

# What a step takes over from the run it continues. The rest is of the step itself.
_SHARED = ("model", "data", "seed", "seeds", "train", "retrain", "lora", "influence")
_GO_ON = ("icp", "fidelity", "lds", "loop")  # the same command again takes what is done
_VALUE = ("quickstart", "pipeline", "valuate")
_ALSO = {
    "pipeline": ("rank", "select"),
    "valuate": ("rank",),
    "select": ("rank", "select"),
    "compare": ("rank", "select"),
    "retrain": ("select",),
    "loop": ("rank",),
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


def refuse_used_folder(cfg: DictConfig, recipe: str, folder: Path) -> None:
    """Refuse a folder in which the files of two runs would stand side by side.

    Args:
        cfg: the configuration.
        recipe: which some take up again in their own folder.
        folder: of the run that is about to begin.

    Raises:
        ConfigError: the folder is that of the run in ``from``, or another run ended there.
    """
    if recipe in _GO_ON or cfg.resume or cfg.influence.overwrite:
        return
    other = "Choose another with hydra.run.dir=<folder>; from=<folder> goes on from what is there."
    if recipe in _VALUE:
        other += " To value anew in its place: influence.overwrite=true."
    if recipe == "score":
        other += " To choose others by the scores in it: resume=true."
    if cfg["from"] is not None and Path(cfg["from"]).resolve() == folder.resolve():
        raise ConfigError(f"{folder} is the run to go on from, and stays as it is. {other}")
    # The file is written when a run ends, so that an interrupted one can be repeated in place.
    if (folder / CONFIG).exists():
        raise ConfigError(f"{folder} already holds a finished run. {other}")


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
    """The configuration of a finished run: all keys of conf/config.yaml, and its facts.

    Keys that this release does not know are left out with a warning, and those that the file lacks
    have their defaults.

    Raises:
        ConfigError: the folder is no run folder, or its file is damaged.
    """
    path = folder / CONFIG
    if why := why_no_file(path):
        raise ConfigError(
            f"from={folder}: no {CONFIG} there ({why}), so it is no run folder. Give the folder "
            "that an earlier `influcoder` run wrote (its hydra.run.dir)."
        )
    try:
        text = read_whole(path, _MOST_BYTES).decode("utf-8-sig")
        _refuse_growth(text)
        content = yaml.load(text, Loader=get_yaml_loader())  # OmegaConf's: safe, no key twice
        if not isinstance(content, dict) or not content.keys() & {"model", "data", "train"}:
            raise ConfigError(f"{path} holds no keys of a run; it was not written by `influcoder`.")
        facts = content.get("facts") or {}
        if not isinstance(facts, dict):
            raise ConfigError(f"{path}: facts must hold keys; it was not written by `influcoder`.")
        known = OmegaConf.create(_known(_literal(content), defaults(), "", path))
        check_kinds(OmegaConf.merge(defaults(), known), f"{path}: ")  # type: ignore[arg-type]
        loaded = OmegaConf.merge(defaults(), known, {"facts": _literal(facts)})
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        if isinstance(error, ConfigError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{path} cannot be read as YAML: {reason:.300}. Continue from another run, or value "
            "the pool again."
        ) from error
    assert isinstance(loaded, DictConfig)
    return loaded


_MOST_BYTES, _MOST_DEPTH = 2**22, 32


def _refuse_growth(text: str) -> None:
    """Aliases let a few lines stand for terabytes, and deep nesting takes the parser very long."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("it has an alias (*name), and `influcoder` writes none")
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > _MOST_DEPTH:
            raise ValueError(f"it is nested more than {_MOST_DEPTH} deep")


def _literal(content: Any) -> Any:
    """Text as it stands: a run's file is written resolved, so that ${...} in it means itself."""
    if isinstance(content, dict):
        return {key: _literal(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_literal(value) for value in content]
    if isinstance(content, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", content)
    return content


def _known(content: dict[Any, Any], kinds: DictConfig, prefix: str, path: Path) -> dict[str, Any]:
    """The keys of conf/config.yaml among those of a file."""
    known: dict[str, Any] = {}
    for key, value in content.items():
        if key not in kinds:
            # A step's loggers are its own: classes that a file from elsewhere names are not made.
            if prefix or key not in ("facts", "versions", "command", "logger"):
                log.warning("%s: %s%s is no key of this release; ignored", path, prefix, key)
            continue
        section = kinds[key]
        if isinstance(section, DictConfig) and isinstance(value, dict):
            value = _known(value, section, f"{prefix}{key}.", path)
        elif isinstance(section, DictConfig):
            raise ConfigError(f"{path}: {prefix}{key} must hold keys; it holds a value.")
        elif value == "???":  # for OmegaConf: a value that is still to be given
            raise ConfigError(f"{path}: {prefix}{key} has no value; write one, or null.")
        known[key] = value
    return known


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
            # What the earlier run calls an absolute path stays one from any directory.
            cfg[name] = earlier[name]
            for key, value in kept.items():
                OmegaConf.update(cfg, key, value, merge=False)
        # A store that the earlier run was allowed to replace is no reason to replace this one.
        if "influence.overwrite" not in given:
            cfg.influence.overwrite = False
        if "resume" not in given:
            cfg.resume = False
        if recipe == "retrain" and "data.pool" not in given:
            cfg.data.pool = str(locate(Path(cfg["from"]), SELECTED).absolute())
        if recipe in ("select", "compare") and "data.pool" not in given:
            # A run that was trained on a choice had that as its pool; the ranking is of a larger.
            ranked = locate(Path(cfg["from"]), RANKING).parent
            cfg.data.pool = load_config(ranked).data.pool
    held = recipe in ("retrain", "compare") and "retrain.steps" not in given
    if held and cfg.retrain.steps is not None and "train.steps" in given:
        log.warning(
            "train.steps has no effect here: retrain.steps=%s of the earlier run holds; set that",
            cfg.retrain.steps,
        )
    return cfg


def absolute_paths(cfg: DictConfig) -> DictConfig:
    """The configuration with local paths made absolute, so that the run repeats from anywhere."""
    cfg = cfg.copy()
    for key in (
        "data.pool", "data.query", "data.eval", "from", "queries", "model.adapter", "lds.models"
    ):  # fmt: skip
        value = OmegaConf.select(cfg, key)
        if value is not None:
            OmegaConf.update(cfg, key, _absolute(key, value))
    for key in ("a", "b"):  # files or lists of files
        value = OmegaConf.select(cfg, key)
        if OmegaConf.is_list(value):
            OmegaConf.update(cfg, key, [_absolute(key, v) for v in value])
        elif value is not None:
            OmegaConf.update(cfg, key, _absolute(key, value))
    scores = OmegaConf.select(cfg, "lds.scores") or {}
    for name in list(scores):
        scores[name] = _absolute(f"lds.scores.{name}", scores[name])
    for key in ("model.name", "influence.text_encoder"):  # a folder or a hub name
        value = OmegaConf.select(cfg, key)
        if value is not None and Path(value).is_dir():
            OmegaConf.update(cfg, key, str(Path(value).absolute()))
    return cfg


def _absolute(key: str, value: Any) -> str:
    try:
        return str(Path(str(value)).expanduser().absolute())
    except RuntimeError as error:  # ~name of a user that there is not
        raise ConfigError(f"{key}={value!s:.100}: {error}") from error


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
