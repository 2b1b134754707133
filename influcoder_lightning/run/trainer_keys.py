"""The groups ``trainer``, ``optimizer`` and ``scheduler`` of a run, beside the section ``train``.

``train.lr`` and its neighbours are short names of what these groups have as well; a run has each in
one place, `train`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.trainers import PLACE
from influcoder_lightning.run.settings import Settings, literal, plain

SHORT = {
    "train.precision": "trainer.precision",
    "train.accumulate": "trainer.accumulate_grad_batches",
    "train.steps": "trainer.max_steps",
    "train.epochs": "trainer.max_epochs",
    "train.lr": "optimizer.lr",
    "train.weight_decay": "optimizer.weight_decay",
    "train.warmup": "scheduler.num_warmup_steps",
}
_ELSEWHERE = {
    "logger": "logger=csv, tensorboard or wandb",
    "enable_checkpointing": "train.checkpoint_every_n_steps",
    "default_root_dir": "hydra.run.dir",
}


def with_short_names(cfg: Settings, given: Collection[str]) -> Settings:
    """The settings with every value in ``train`` that the groups may have as well.

    Args:
        cfg: settings.
        given: keys that were set on the command line; they hold over those of a preset.

    Raises:
        ConfigError: both names are given, with different values; an argument of the Trainer that
            is set elsewhere.
    """
    cfg = cfg.copy()
    for name, way in _ELSEWHERE.items():
        if cfg.trainer.get(name) is not None:
            raise ConfigError(f"trainer.{name} is not set here; it is {way}.")
    for short, long in SHORT.items():
        section, name = long.split(".")
        value = (cfg[section] or {}).get(name)
        if value is None or value == "warmup":
            continue
        if short in given and long in given and value != cfg.at(short):
            raise ConfigError(
                f"{short}={cfg.at(short)} and {long}={value} are two names of one thing; give one."
            )
        if short not in given or long in given:
            cfg.put(short, value)
        cfg[section][name] = "warmup" if name == "num_warmup_steps" else None
    return cfg


def training_keys(cfg: Settings, alone: bool = False) -> dict[str, Any]:
    """Keyword arguments of `finetune.train` from the three groups.

    Args:
        cfg: settings.
        alone: the training has one device, whatever the run has.

    Raises:
        ConfigError: a callback, plugin or strategy that cannot be made.
    """
    nodes = plain(cfg.trainer)
    trainer = {name: _made(name, nodes[name]) for name in nodes if name != "callbacks"}
    trainer["callbacks"] = _callbacks(plain(cfg.trainer.callbacks))
    if alone:
        trainer |= {name: None for name in PLACE if name != "accelerator"}
        if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
            trainer["devices"] = [torch.cuda.current_device()]
    groups = {name: plain(cfg[name]) or {} for name in ("optimizer", "scheduler")}
    return {"trainer": trainer, **groups}


def _callbacks(nodes: Any) -> list[Any]:
    """Those of ``{name: node}`` or of a list of nodes."""
    if isinstance(nodes, Mapping) and "_target_" not in nodes:
        nodes = list(nodes.values())
    found = _made("callbacks", nodes if isinstance(nodes, list) else [nodes] if nodes else [])
    for callback in found:
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"trainer.callbacks: {callback!r:.100} is no callback; give nodes with the class "
                "as _target_, +trainer.callbacks.timer._target_=lightning.pytorch.callbacks.Timer."
            )
    return list(found)


def _made(name: str, value: Any) -> Any:
    """Objects in place of the nodes that describe them."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [_made(name, item) for item in value]
    if not isinstance(value, Mapping) or "_target_" not in value:
        return value
    try:
        return instantiate(literal(dict(value)))
    except InstantiationException as error:
        raise ConfigError(f"trainer.{name}: {error.__cause__ or error}") from error
