"""`config.yaml` of a run folder: there from the run's first second, and read by the next run.

A file from elsewhere is taken for plain data: text is never interpolated, keys that this release
does not know are left out, and its size, depth and aliases are bounded before it is parsed.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

# Not `OmegaConf.create`, which would refuse a template with "${" in it for its interpolation.
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path, read_whole, why_no_file
from influcoder_lightning.finetune.optimizers import is_harmless
from influcoder_lightning.run.bare_store import is_store, settings_of_store
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.config_values import check_kinds
from influcoder_lightning.run.settings import Settings, plain, resolved

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
# A file of ours has 7 KiB; the parser is slow, and takes one or two seconds for this much.
_MOST_BYTES, _MOST_DEPTH = 2**17, 32
_Scanner = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it is built
# A step's loggers are its own: classes that a file from elsewhere names are not made.
_OPEN = ("optimizer", "scheduler")  # each class has arguments of its own
_BESIDE = ("facts", "complete", "versions", "command", "logger")


def save_config(cfg: Settings, folder: Path, complete: bool = True, **facts: object) -> None:
    """Write ``config.yaml``: every key, the command, library versions, and ``facts``.

    Args:
        cfg: the settings of the run.
        folder: of the run.
        complete: whether the run has ended; a run that has not may be repeated in its folder.
        facts: what the run found out and a later step needs, such as the pool's fingerprint.
    """
    from influcoder_lightning.valuation.valuation import library_versions

    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    content = {
        **cfg,
        "facts": facts,
        "complete": complete,
        "versions": library_versions(),
        "command": command.encode("utf-8", "backslashreplace").decode("utf-8"),
    }
    with durable_path(folder / CONFIG) as part:
        part.write_text(as_yaml(content), encoding="utf-8")


def begin_config(cfg: Settings, folder: Path, **facts: object) -> None:
    """Write ``config.yaml`` of a run that begins.

    That of a run that has got behind its checks here stays, until this one is behind its own.
    """
    if not (folder / CONFIG).exists() or not _has_begun(folder):
        save_config(cfg, folder, complete=False, **facts)


def _has_begun(folder: Path) -> bool:
    try:
        before = load_config(folder)
    except ConfigError:
        return True
    return bool(before.complete or before.facts)


def as_yaml(content: object) -> str:
    """Plain data as YAML that `read_config` and OmegaConf give back as it was; without aliases."""
    text: str = yaml.dump(
        plain(content),
        Dumper=_Dumper,
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
    )
    return text


class _Dumper(get_omega_conf_dumper()):  # type: ignore[misc]
    """OmegaConf's, which quotes what its own reader would take for a number."""

    def ignore_aliases(self, data: object) -> bool:
        """An object that occurs twice is written twice."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Escaped where YAML's reader would fold a NEL, which the dumper writes as it is."""
        quoted = "\x85" in text
        node: yaml.ScalarNode = (
            self.represent_scalar("tag:yaml.org,2002:str", text, style='"')
            if quoted
            else self.str_representer(self, text)
        )
        return node


_Dumper.add_representer(str, _Dumper.represent_text)


def load_config(folder: Path) -> Settings:
    """The settings of a run: all keys of the command, its ``facts``, and ``complete``.

    The folder may be that of a store which the callback wrote; then they are the defaults, with
    what the store knows.

    Keys that this release does not know are left out with a warning, and those that the file lacks
    have their defaults.

    Raises:
        ConfigError: the folder is no run folder, or its file is damaged.
    """
    path = folder / CONFIG
    if not path.exists() and is_store(folder):
        bare = settings_of_store(folder, resolved(defaults()))
        bare.facts, bare.complete = {}, True
        check_kinds(bare, f"{folder}: ")
        return bare
    if why := why_no_file(path):
        raise ConfigError(
            f"from={folder}: no {CONFIG} there ({why}), so it is no run folder. Give the folder "
            "that an earlier `influcoder` run wrote (its hydra.run.dir), or that of a store."
        )
    content = read_config(path)
    if not content.keys() & {"model", "data", "train"}:
        raise ConfigError(f"{path} holds no keys of a run; it was not written by `influcoder`.")
    facts = content.get("facts") or {}
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: facts must hold keys; it was not written by `influcoder`.")
    loaded = resolved(defaults()).copy()
    _take_over(content, loaded, "", path)
    _forget_classes(loaded, path)
    data = content.get("data")
    if loaded.model.template is None and isinstance(data, dict) and "train_on" not in data:
        loaded.model.template = "instruction"  # of release 0.1, which knew no other
    try:
        check_kinds(loaded, f"{path}: ")
    except ValueError as error:  # numbers of more digits than Python shows
        raise error if isinstance(error, ConfigError) else _unreadable(path, error) from error
    loaded.facts = facts
    loaded.complete = content.get("complete", True) is not False  # releases before 0.2: at the end
    return loaded


def read_config(path: Path) -> dict[Any, Any]:
    """The content of a ``config.yaml`` as plain data, within bounded time and memory.

    Raises:
        ConfigError: it is too large or too deep, is no YAML, or holds something else than keys.
    """
    try:
        text = read_whole(path, _MOST_BYTES).decode("utf-8-sig")
        _refuse_growth(text)
        content = yaml.load(text, Loader=get_yaml_loader())  # OmegaConf's: safe, no key twice
        _refuse_objects(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no keys of a run; it was not written by `influcoder`.")
    return content


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(
        f"{path} cannot be read as YAML: {reason:.300}. Continue from another run, or value the "
        "pool again."
    )


def _refuse_growth(text: str) -> None:
    """Aliases let a few lines stand for terabytes, and deep nesting takes the parser very long."""
    depth = 0
    for token in yaml.scan(text, Loader=_Scanner):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("it has an alias (*name), and `influcoder` writes none")
        name = type(token).__name__
        depth += name.endswith("StartToken") - name.endswith("EndToken")
        if depth > _MOST_DEPTH:
            raise ValueError(f"it is nested more than {_MOST_DEPTH} deep")


def _refuse_objects(content: object) -> None:
    """Dates, bytes and sets, which YAML knows and no setting is."""
    if isinstance(content, dict):
        for key, value in content.items():
            _refuse_objects(key)
            _refuse_objects(value)
    elif isinstance(content, list):
        for value in content:
            _refuse_objects(value)
    elif content is not None and not isinstance(content, bool | int | float | str):
        raise ValueError(f"it holds a {type(content).__name__}, and settings are plain values")


def _forget_classes(cfg: Settings, path: Path) -> None:
    """Leave out classes that a file names, but for optimizers and schedules of known libraries."""
    for name in ("optimizer", "scheduler"):
        targets = [cfg[name].get(key) for key in ("_target_", "optimizer_cls")]
        if foreign := [target for target in targets if not is_harmless(target)]:
            log.warning(
                "%s: %s names %s, which a file does not make run; give it again: %s._target_=...",
                path, name, foreign[0], name,
            )  # fmt: skip
            cfg[name] = defaults()[name]
    for name, value in cfg.trainer.items():
        if isinstance(value, Mapping | list) and "_target_" in str(value):
            log.warning(
                "%s: trainer.%s names classes, which a file does not make run; give it again",
                path, name,
            )  # fmt: skip
            cfg.trainer[name] = None


def _take_over(content: dict[Any, Any], into: Settings, prefix: str, path: Path) -> None:
    """Put the values of a file in the place of the defaults that have their keys."""
    for key, value in content.items():
        if key not in into:
            if prefix or key not in _BESIDE:
                log.warning("%s: %s%s is no key of this release; ignored", path, prefix, key)
            continue
        section = into[key]
        if not prefix and key in _OPEN and isinstance(value, dict):
            section |= {name: None for name in value if name not in section}
        if isinstance(section, Settings) and isinstance(value, dict):
            _take_over(value, section, f"{prefix}{key}.", path)
            continue
        if isinstance(section, Settings):
            raise ConfigError(f"{path}: {prefix}{key} must hold keys; it holds a value.")
        if value == "???":  # what Hydra writes for a value that is still to be given
            raise ConfigError(f"{path}: {prefix}{key} has no value; write one, or null.")
        into[key] = value
