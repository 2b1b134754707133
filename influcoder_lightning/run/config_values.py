"""Whether every key of a configuration holds a value of its kind, before anything is done with it.

The kinds follow from the defaults in conf/config.yaml; keys without a default are listed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.run.config import defaults
from influcoder_lightning.run.settings import Settings, resolved

_TEXT, _FLAG = "text", "true or false"
_WHOLE, _NUMBER, _LIST = "a whole number", "a number", "a list, like [1,2]"
# Keys whose default is null, or does not tell all that they may hold.
_KINDS = {
    "model.name": (_TEXT,),
    "model.template": (_TEXT,),
    "model.adapter": (_TEXT,),
    "data.pool": (_TEXT,),
    "data.query": (_TEXT,),
    "data.eval": (_TEXT,),
    "from": (_TEXT,),
    "queries": (_TEXT,),
    "train.steps": (_WHOLE,),
    "train.epochs": (_NUMBER,),
    "train.precision": (_TEXT, _WHOLE),
    "train.checkpoint_every_n_steps": (_WHOLE,),
    "retrain.steps": (_WHOLE,),
    "retrain.lr": (_NUMBER,),
    "lora.alpha": (_NUMBER,),
    "lora.target_modules": (_TEXT, _LIST),
    "influence.text_encoder": (_TEXT,),
    "influence.refresh_queries_every_n_steps": (_WHOLE,),
    "select.k": (_WHOLE,),
    "select.threshold": (_NUMBER,),
    "select.max_similarity": (_NUMBER,),
    "icp.n_queries": (_WHOLE,),
    "icp.max_length": (_WHOLE,),
    "fidelity.distil.max_tokens": (_WHOLE,),
    "loop.threshold": (_NUMBER,),
    "lds.removal_methods": (_LIST,),
    "lds.processes": (_WHOLE,),
    "lds.models": (_TEXT,),
}
_LEAST = {
    "seed": 0,
    "select.k": 1,
    "retrain.steps": 1,
    "retrain.lr": 0,
    "loop.rounds": 1,
    "loop.min_gain": 0,
    "loop.patience": 1,
    "train.steps": 1,
    "train.checkpoint_every_n_steps": 1,
    "influence.segment_rows": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.max_length": 1,
    "train.warmup": 0,
    "train.lr": 0,
    "train.weight_decay": 0,
    "train.epochs": 0,
    "score.processes": 1,
    "score.batch_size": 1,
    "score.part_rows": 1,
    "n": 1,
    "icp.n_queries": 1,
    "icp.max_length": 1,
    "icp.batch_tokens": 1,
    "influence.sketch_dim": 1,
    "influence.code_dim": 1,
    "quickstart.n_pool": 1,
    "quickstart.n_query": 1,
    "quickstart.n_eval": 1,
    "quickstart.pretrain_steps": 0,
    "quickstart.hidden_size": 1,
    "lora.r": 1,
    "lds.n_subsets": 3,
    "lds.subset_seed": 0,
    "lds.processes": 1,
}
# Far beyond any use; what is larger would only fill the memory.
_MOST = {
    "seed": 2**32 - 1,
    "influence.sketch_dim": 2**24,
    "influence.code_dim": 2**16,
    "lora.r": 2**16,
    "quickstart.n_pool": 10**6,
    "quickstart.n_query": 10**6,
    "quickstart.n_eval": 10**6,
    "quickstart.hidden_size": 2**14,
}
_MOST_WHOLE = 2**31 - 1
_MAY_BE_NULL = ("rank.method",)  # recipe=score chooses it


def check_kinds(cfg: Settings | DictConfig, where: str = "") -> None:
    """Refuse values of the wrong kind, and numbers too small or too large to mean anything.

    Args:
        cfg: all keys of conf/config.yaml; others are not looked at.
        where: the file that the values are from, for the message.

    Raises:
        ConfigError: names the key.
    """
    content = resolved(cfg, where)
    for key, default in _leaves(defaults(), ""):
        value, section = _value(content, key)
        if section is not None:
            raise ConfigError(f"{where}{section} must hold keys, such as {key}, and not a value.")
        _check(key, value, default, where)
    _check_seeds(content.get("seeds"), where)


def _leaves(node: DictConfig, prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in node.items_ex(resolve=False):
        key = f"{prefix}{name!s}"
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _value(content: object, key: str) -> tuple[object, str | None]:
    """The value of a key; or the section that should hold it and is none."""
    path = key.split(".")
    for place, name in enumerate(path):
        if not isinstance(content, dict):
            return None, ".".join(path[:place])
        content = content.get(name)
    return content, None


def _check(key: str, value: Any, default: object, where: str) -> None:
    if key in ("a", "b", "seeds", "select.quota", "lds.scores"):  # checked where they are used
        return
    kinds = _KINDS.get(key) or _kinds_of(default)
    if value is None:
        if default is None or key in _MAY_BE_NULL or not kinds:
            return
        raise ConfigError(f"{where}{key}=null must be {' or '.join(kinds)}.")
    least, most = _LEAST.get(key), _MOST.get(key, _MOST_WHOLE)
    if kinds and not any(_is(value, kind) for kind in kinds):
        above = f" of at least {least}" if least is not None else ""
        hint = ""
        if _TEXT in kinds and _is(value, _NUMBER):
            hint = f" A name that is a number is given as {key}=./{value} or {key}=\"'{value}'\"."
        raise ConfigError(f"{where}{_shown(key, value)} must be {' or '.join(kinds)}{above}.{hint}")
    if isinstance(value, str):
        _check_text(key, value, where)
    if _is(value, _NUMBER):
        if least is not None and value < least:
            raise ConfigError(
                f"{where}{_shown(key, value)} must be {kinds[0]} of at least {least}."
            )
        if isinstance(value, int) and not -_MOST_WHOLE <= value <= most:
            raise ConfigError(f"{where}{_shown(key, value)} must be at most {most}.")


def _kinds_of(default: object) -> tuple[str, ...]:
    for kind, types in ((_FLAG, bool), (_WHOLE, int), (_NUMBER, float), (_TEXT, str)):
        if isinstance(default, types):
            return (kind,)
    return (_LIST,) if OmegaConf.is_list(default) else ()


def _is(value: object, kind: str) -> bool:
    if kind == _FLAG or isinstance(value, bool):
        return kind == _FLAG and isinstance(value, bool)
    if kind == _NUMBER:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, {_WHOLE: int, _TEXT: str, _LIST: list}[kind])


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


def _check_seeds(seeds: object, where: str) -> None:
    wrong = not isinstance(seeds, list) or not all(
        _is(seed, _WHOLE) and 0 <= seed <= _MOST["seed"] for seed in seeds
    )
    if wrong:
        raise ConfigError(
            f"{where}{_shown('seeds', seeds)} must be a list of whole numbers, like [0,1,2]."
        )


def _shown(key: str, value: object) -> str:
    return f"{key}={str(value)[:100]}"
