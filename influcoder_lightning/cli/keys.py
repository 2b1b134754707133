"""Which keys there are, and what a mistyped one may have meant."""

from __future__ import annotations

import difflib
import importlib.util
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress, groupby
from typing import Any

from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf

from influcoder_lightning.errors import ConfigError, did_you_mean
from influcoder_lightning.run.config import RECIPES, all_keys, defaults

# Sections whose keys are the user's own.
_OPEN = ("select.quota", "lds.scores", "logger", "optimizer", "scheduler", "trainer.callbacks")
# Choices between whole files of conf/, and not keys.
_GROUPS = ("recipe", "logger", "trainer", "optimizer", "scheduler")
_OWN_FILES = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath")
# Not --experimental-rerun, which unpickles a file of a run folder.
_VALUED_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg",
                 "-c", "--package", "-p", "--info", "-i")  # fmt: skip
_FLAGS = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun",
          "-m", "--shell-completion", "-sc", *_VALUED_FLAGS)  # fmt: skip
# What people call the keys elsewhere, by what is behind the last dot.
_ALIASES = {
    "adapter": "model.adapter",
    "adapter_name_or_path": "model.adapter",
    "batch": "train.batch_size",
    "batch_size": "train.batch_size",
    "dataset": "data.pool",
    "dataset_name": "data.pool",
    "epoch": "train.epochs",
    "eval_file": "data.eval",
    "eval_dataset": "data.eval",
    "gradient_accumulation_steps": "train.accumulate",
    "k": "select.k",
    "learning_rate": "train.lr",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_r": "lora.r",
    "lr": "train.lr",
    "max_seq_length": "train.max_length",
    "method": "rank.method",
    "model": "model.name",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "n_samples": "select.k",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "out": "hydra.run.dir",
    "out_dir": "hydra.run.dir",
    "output": "hydra.run.dir",
    "output_dir": "hydra.run.dir",
    "per_device_train_batch_size": "train.batch_size",
    "query_file": "data.query",
    "rank": "lora.r",
    "steps": "train.steps",
    "strategy": "select.strategy",
    "test": "data.eval",
    "top_k": "select.k",
    "train": "data.pool",
    "train_data": "data.pool",
    "train_dataset": "data.pool",
    "train_file": "data.pool",
    "validation": "data.eval",
    "validation_file": "data.eval",
    "warmup_steps": "train.warmup",
}
# The key of a section that its name alone is taken for.
_MAIN_KEYS = {
    "data": "data.pool",
    "model": "model.name",
    "rank": "rank.method",
    "select": "select.k",
}
_OVERRIDE = re.compile(r"^(\+{0,2}|~)([A-Za-z_][\w./@:]*)(=|$)")
_LAUNCHERS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
}


def refuse_unknown_arguments(arguments: Sequence[str]) -> None:
    """Refuse keys that no recipe reads, also those added with ``+``, which Hydra would accept.

    Where the arguments name configuration files of the user's own, groups without a dot may be
    theirs; `refuse_unknown_keys` looks at what came of them.

    Raises:
        ConfigError: names the key, and the nearest that there is.
    """
    own_files = any(a.lstrip("+").startswith(_OWN_FILES) for a in arguments)
    known = all_keys()
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if before not in _VALUED_FLAGS:
            _refuse_other_forms(argument)
        match = _OVERRIDE.match(argument)
        if match is None or argument.startswith("-") or (match[1] != "~" and match[3] != "="):
            continue
        key, value = match[2], argument[match.end() :]
        if key == "recipe" and value not in RECIPES and re.fullmatch(r"\w+", value):
            if own_files:
                continue
            raise ConfigError(
                f"unknown recipe {value!r}{did_you_mean(value, RECIPES)} "
                f"Recipes: {', '.join(RECIPES)}"
            )
        if key == "hydra/launcher":
            _refuse_missing_launcher(value)
        if own_files and "." not in key:
            continue
        if key in _MAIN_KEYS and match[3] and not value.startswith(("{", "$")):
            raise ConfigError(
                f"{key} holds keys, and not a value; did you mean {_MAIN_KEYS[key]}={value}?"
            )
        _refuse(key, known)
    _refuse_split_keys(arguments)


def _refuse_split_keys(arguments: Sequence[str]) -> None:
    """Hydra's parser takes one stretch of keys, in front of the options or behind them."""
    places = [
        not argument.startswith("-") and before not in _VALUED_FLAGS
        for before, argument in zip(("", *arguments), arguments, strict=False)
    ]
    if sum(is_key for is_key, _ in groupby(places)) > 1:
        ordered = [*compress(arguments, places), *compress(arguments, (not p for p in places))]
        raise ConfigError(
            f"keys stand together, and options behind them: influcoder {shlex.join(ordered)}"
        )


def _refuse_other_forms(argument: str) -> None:
    """``valuate`` and ``--select.k=3``, as other commands take them."""
    name = argument.partition("=")[0]
    if argument.startswith("-"):
        if name not in _FLAGS:
            raise ConfigError(
                f"unknown option {name!r}. Keys are given without dashes, like select.k=100."
            )
    elif "=" not in argument and not argument.startswith("~"):
        given = f"recipe={argument}" if argument in RECIPES else f"{argument}=<value>"
        raise ConfigError(f"{argument!r} has no value. Keys are given as key=value: {given}")


def refuse_unknown_keys(cfg: DictConfig) -> None:
    """Refuse keys of a composed configuration that no recipe reads.

    Raises:
        ConfigError: names the key.
    """
    known = all_keys()
    for key in _leaves(cfg, ""):
        parent = key.rpartition(".")[0]
        if parent in known and not isinstance(OmegaConf.select(defaults(), parent), DictConfig):
            continue  # keys where one value belongs: `check_kinds` says which
        _refuse(key, known, " A file of yours that sets keys begins with `# @package _global_`.")


def keys_of_own_files(choices: Mapping[str, Any], sources: Iterable[ConfigSource]) -> list[str]:
    """Keys that the user's own configuration files set, such as those of ``+experiment=mine``.

    Args:
        choices: group -> chosen file, as Hydra composed them.
        sources: where Hydra looked for them, first to last.
    """
    found: list[str] = []
    for group, choice in choices.items():
        path = f"{group}/{choice}"
        if group in _GROUPS or group.startswith("hydra/") or choice is None:
            continue
        source = next((s for s in sources if s.available() and s.is_config(path)), None)
        content = None if source is None else source.load_config(path).config
        if isinstance(content, DictConfig):
            found += [key for key in _leaves(content, "") if key.split(".")[0] != "defaults"]
    return found


def _refuse(key: str, known: Sequence[str], hint: str = "") -> None:
    if key in known or key in _GROUPS or re.split(r"[./@]", key)[0] == "hydra":
        return
    if any(key == name or key.startswith(f"{name}.") for name in _OPEN):
        return
    # A slip of the keyboard is nearer than what other tools would call it.
    alias = _ALIASES.get(key.rpartition(".")[2].lower())
    slip = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    meant = f"; did you mean {alias!r}?" if alias and not slip else did_you_mean(key, known)
    raise ConfigError(f"unknown key {key!r}{meant} `influcoder --cfg job` lists all keys.{hint}")


def _refuse_missing_launcher(name: str) -> None:
    plugin = _LAUNCHERS.get(name)
    if plugin is None:
        return
    try:
        found = importlib.util.find_spec(plugin)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(
            f"hydra/launcher={name} is not installed: pip install 'influcoder-lightning[launchers]'"
        )


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    for name, value in node.items_ex(resolve=False):
        key = f"{prefix}{name!s}"
        if isinstance(value, DictConfig) and len(value):
            yield from _leaves(value, f"{key}.")
        else:
            yield key
