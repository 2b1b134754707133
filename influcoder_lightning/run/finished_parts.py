"""Finished parts of a long run, so that the same command in the same folder goes on behind them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.files import durable_path, read_whole
from influcoder_lightning.run.together import shared
from influcoder_lightning.valuation.fingerprint import as_kept


def read_part(
    path: Path, settings: Mapping[str, object], keys: Collection[str], *, replace: bool = False
) -> dict[str, Any] | None:
    """What `write_part` kept, or None where that part is not finished.

    Args:
        path: of the part.
        settings: what its content depends on, as JSON gives it back.
        keys: what its content has.
        replace: a part that was made with other settings counts as not finished.

    Raises:
        ConfigError: the file is damaged, or was made with other settings.
    """
    path = shared(path)
    if not path.is_file():
        return None
    try:
        part: dict[str, dict[str, Any]] = json.loads(read_whole(path))
        before, content = part["settings"], part["content"]
        if missing := set(keys) - set(content):
            raise KeyError(*sorted(missing))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged ({error!r:.200}); delete it to do that part anew."
        ) from error
    settings = as_kept(settings, before, path)
    if before != settings and replace:
        return None
    if before != settings:
        raise ConfigError(
            f"{path} was made with other settings ({_first_difference(before, settings)}); choose "
            "another hydra.run.dir, or delete that folder."
        )
    return content


def write_part(path: Path, settings: Mapping[str, object], content: Mapping[str, object]) -> None:
    """Keep a finished part; on return it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable_path(path) as unfinished:
        text = json.dumps({"settings": settings, "content": content}, indent=1)
        unfinished.write_text(text + "\n", encoding="utf-8")


def _first_difference(before: object, now: object, name: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *before]:
            if key not in before or key not in now or before[key] != now[key]:
                where = f"{name}.{key}" if name else str(key)
                return _first_difference(before.get(key), now.get(key), where)
    return f"{name or 'settings'}: {before!s:.60} then, {now!s:.60} now"
