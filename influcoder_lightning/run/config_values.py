"""Whether every key of a configuration holds a value of its kind, before anything is done with it.

The kinds and limits stand where the keys are declared, in `configuration/`.
"""

from __future__ import annotations

from omegaconf import DictConfig

from influcoder_lightning.configuration.key import NUMBER, TEXT, Key, is_a, keys
from influcoder_lightning.configuration.sections import Config
from influcoder_lightning.errors import ConfigError
from influcoder_lightning.run.settings import Settings, resolved


def check_kinds(cfg: Settings | DictConfig, where: str = "") -> None:
    """Refuse values of the wrong kind, and numbers too small or too large to mean anything.

    Args:
        cfg: all keys of the command; others are not looked at.
        where: the file that the values are from, for the message.

    Raises:
        ConfigError: names the key.
    """
    content = resolved(cfg, where)
    for key in keys(Config):
        value, section = _value(content, key.name)
        if section is not None:
            raise ConfigError(
                f"{where}{section} must hold keys, such as {key.name}, and not a value."
            )
        _check(key, value, where)


def _value(content: object, key: str) -> tuple[object, str | None]:
    """The value of a key; or the section that should hold it and is none."""
    path = key.split(".")
    for place, name in enumerate(path):
        if not isinstance(content, dict):
            return None, ".".join(path[:place])
        content = content.get(name)
    return content, None


def _check(key: Key, value: object, where: str) -> None:
    if fault := key.fault(value):
        hint = ""
        if TEXT in key.kinds and is_a(value, NUMBER):
            hint = f" A name that is a number is given as {key.name}=./{value} or " + (
                f"{key.name}=\"'{value}'\"."
            )
        shown = "null" if value is None else str(value)[:100]
        raise ConfigError(f"{where}{key.name}={shown} {fault}.{hint}")
    if isinstance(value, str) and key.kinds:
        _check_text(key.name, value, where)


def _check_text(key: str, value: str, where: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}{key}={value!a:.100} is not UTF-8, and could not be written to config.yaml; "
            "rename the file."
        ) from error
    if "\0" in value:
        raise ConfigError(f"{where}{key}={value!r:.100} has a NUL byte; remove it.")
