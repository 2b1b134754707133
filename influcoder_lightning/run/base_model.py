"""The model of a run, as its settings say."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influcoder_lightning.finetune.models import load_adapter, load_base_model, load_model
from influcoder_lightning.finetune.saved_adapter import WEIGHTS
from influcoder_lightning.run.settings import Settings, plain

if TYPE_CHECKING:
    from peft import PeftModel

_OPTIONS = ("dtype", "quantization", "attn_implementation", "revision", "gradient_checkpointing")


def base_model(cfg: Settings) -> Any:
    """The model of the section ``model``, without an adapter.

    Raises:
        ConfigError: it cannot be loaded.
    """
    return load_base_model(cfg.model.name, **_options(cfg))


def lora_model(cfg: Settings, seed: int | None = None) -> PeftModel:
    """The same with what a training begins with: ``model.adapter``, or else the fresh LoRA of the
    section ``lora``; ``seed``: of its weights, or the run's.

    Raises:
        ConfigError: it cannot be loaded, or the LoRA does not go with it.
    """
    if cfg.model.adapter is not None:
        return load_adapter(base_model(cfg), cfg.model.adapter)
    seed = cfg.seed if seed is None else seed
    return load_model(cfg.model.name, plain(cfg.lora), seed, **_options(cfg))


def adapter_content(folder: str | Path) -> str:
    """SHA-256 of a saved LoRA's weights, whatever its folder is called."""
    return hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()


def _options(cfg: Settings) -> dict[str, Any]:
    return {name: cfg.model[name] for name in _OPTIONS}
