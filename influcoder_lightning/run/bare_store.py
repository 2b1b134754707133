"""A store that the callback wrote in somebody's own training, taken for a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from influcoder_lightning.influence_store import InfluenceStore
from influcoder_lightning.run.settings import Settings
from influcoder_lightning.store import schema
from influcoder_lightning.store.folder import run_file

_LORA = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules")


def is_store(folder: Path) -> bool:
    """Whether a folder is that of a store, complete or interrupted."""
    return (folder / schema.FILE_NAME).is_file() or Path(run_file(folder)).is_file()


def settings_of_store(folder: Path, defaults: Settings) -> Settings:
    """The settings with what a store knows of the training that wrote it.

    That is the LoRA, the precision, and the base model where it lies on this machine. Rows and
    optimizer it does not know.

    Raises:
        StoreError: it is damaged.
    """
    cfg, attributes = defaults.copy(), InfluenceStore(folder).attributes
    lora: dict[str, Any] = dict(attributes.get("lora") or {})
    for name in _LORA:
        if name in lora and lora[name] is not None:
            cfg.lora[name] = lora[name]
    if isinstance(precision := attributes["config"].get("precision"), str):
        cfg.train.precision = precision
    base = lora.get("base_model")
    if isinstance(base, str) and Path(base).is_dir():
        cfg.model.name = base
    return cfg
