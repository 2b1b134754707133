"""The settings of a run as plain data, in which a text means itself.

Interpolations (``${...}``) are for the user's own command line and files: `resolved` works them out
once, before anything else is read. From there on no value is ever resolved again, so that what a
file from elsewhere holds cannot name a variable of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from influcoder_lightning.errors import ConfigError


class Settings(dict[Any, Any]):
    """Keys and sections, read as ``cfg.train.lr`` or ``cfg["from"]``; sections are `Settings` too.

    Args:
        content: plain values, lists and sections; they are copied.

    Example:
        >>> Settings({"data": {"pool": "${oc.env:HOME}"}}).data.pool
        '${oc.env:HOME}'
    """

    def __init__(self, content: Mapping[Any, Any]) -> None:
        super().__init__({key: _copied(value) for key, value in content.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no key {name!r} among {', '.join(map(str, self))}") from None

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __setitem__(self, name: object, value: object) -> None:
        super().__setitem__(name, _copied(value))

    def copy(self) -> Settings:
        """Settings that share nothing with these."""
        return Settings(self)

    def at(self, key: str) -> Any:
        """The value of a dotted key; None where there is no such key."""
        node: Any = self
        for name in key.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        return node

    def put(self, key: str, value: object) -> None:
        """Set the value of a dotted key; sections that are not there are made."""
        *path, last = key.split(".")
        node = self
        for name in path:
            if not isinstance(node.get(name), Settings):
                node[name] = {}
            node = node[name]
        node[last] = value


def resolved(cfg: Settings | DictConfig, where: str = "") -> Settings:
    """The settings of a composed configuration, its interpolations worked out; settings stay.

    Args:
        cfg: what Hydra composed, or what this function has given before.
        where: where the values are from, for the message.

    Raises:
        ConfigError: a value that cannot be resolved, or is still to be given.
    """
    if isinstance(cfg, Settings):
        return cfg
    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{where}the configuration cannot be resolved: {first:.300}. Give plain values."
        ) from error
    assert isinstance(content, dict)
    return Settings(content)


def plain(node: object) -> Any:
    """A section of the settings as dicts and lists of Python's own, which share nothing with it."""
    if isinstance(node, DictConfig):
        return plain(resolved(node))
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [plain(value) for value in node]
    return node


def literal(content: object) -> object:
    """Plain data for Hydra, who would interpolate it: text that it reads as it is."""
    if isinstance(content, dict):
        return {key: literal(value) for key, value in content.items()}
    if isinstance(content, list):
        return [literal(value) for value in content]
    if isinstance(content, str) and "${" in content:
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", content)
    return content


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return Settings(value)
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value
