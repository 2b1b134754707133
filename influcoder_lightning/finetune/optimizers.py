"""Optimizer and schedule of a fine-tuning run, from the sections ``optimizer``, ``scheduler``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from influcoder_lightning.errors import ConfigError

ADAMW: Mapping[str, Any] = {"_target_": "torch.optim.AdamW"}
CONSTANT: Mapping[str, Any] = {"_target_": None}
# What a file from elsewhere may name: calling these makes an optimizer or a schedule, no more.
_HARMLESS = re.compile(
    r"torch\.optim(\.lr_scheduler)?\.[A-Z]\w+|bitsandbytes\.optim\.[A-Z]\w+"
    r"|peft\.optimizers\.create_loraplus_optimizer|transformers\.get_\w+_schedule(_with_\w+)?"
)


def is_harmless(target: object) -> bool:
    """Whether a ``_target_`` may be called though a file from elsewhere names it."""
    return target is None or (isinstance(target, str) and bool(_HARMLESS.fullmatch(target)))


def check_targets(optimizer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Refuse classes that there are not, before an hour has gone into a run.

    Raises:
        ConfigError: names the key.
    """
    _located("optimizer._target_", optimizer)
    if scheduler.get("_target_") is not None:
        _located("scheduler._target_", scheduler)


def optimizer_of(
    model: nn.Module, section: Mapping[str, Any], lr: float, weight_decay: float
) -> Optimizer:
    """The optimizer of the trainable parameters.

    Args:
        model: what is trained.
        section: ``_target_``, the class of optimizers (or a function that makes one of ``model``
            and ``optimizer_cls``, as PEFT's for LoRA+), and its arguments; null is left out.
        lr: where the section has none.
        weight_decay: likewise.

    Raises:
        ConfigError: no such class, or it refuses the arguments.
    """
    make = _located("optimizer._target_", section)
    takes = inspect.signature(make).parameters
    given = {k: v for k, v in section.items() if k != "_target_" and v is not None}
    decay = "loraplus_weight_decay" if "loraplus_lr_ratio" in takes else "weight_decay"
    first: Any = [p for p in model.parameters() if p.requires_grad]
    if "eps" not in given and "eps" in takes and isinstance(takes["eps"].default, float):
        # In half precision the default of 1e-8 is 0, and the first step divides by it.
        given["eps"] = max(1e-8, *(torch.finfo(p.dtype).tiny for p in first))
    if "optimizer_cls" in takes:
        first, named = model, {"_target_": given.get("optimizer_cls", ADAMW["_target_"])}
        given["optimizer_cls"] = _located("optimizer.optimizer_cls", named)
    defaults = {"lr": lr, decay: weight_decay}
    made = _made("optimizer", make, first, {**_accepted(takes, defaults), **given})
    if not isinstance(made, Optimizer):
        raise ConfigError(f"optimizer._target_={section['_target_']} makes no optimizer.")
    return made


def schedule_of(
    optimizer: Optimizer, section: Mapping[str, Any], steps: int, warmup: int
) -> Any | None:
    """How the learning rate goes, step by step; None: it is constant.

    Args:
        optimizer: whose learning rate it is.
        section: ``_target_``, a class of schedulers or a function that makes one, and its
            arguments, where the texts ``steps`` and ``warmup`` stand for these numbers. Without a
            target the rate rises for ``warmup`` steps, and is constant then.
        steps: optimizer steps of the training.
        warmup: those of them in which the rate rises.

    Raises:
        ConfigError: no such class, or it refuses the arguments.
    """
    if section.get("_target_") is None:
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup)) if warmup else None
    make = _located("scheduler._target_", section)
    numbers = {"steps": steps, "warmup": warmup}
    given = {
        name: numbers.get(value, value) if isinstance(value, str) else value
        for name, value in section.items()
        if name != "_target_" and value is not None
    }
    made = _made("scheduler", make, optimizer, given)
    if not hasattr(made, "step") or not hasattr(made, "state_dict"):
        raise ConfigError(f"scheduler._target_={section['_target_']} makes no scheduler.")
    return made


def _located(option: str, section: Mapping[str, Any]) -> Callable[..., Any]:
    """What ``_target_`` names.

    Raises:
        ConfigError: nothing, or nothing that can be called.
    """
    from pkgutil import resolve_name

    target = section.get("_target_")
    try:
        found = resolve_name(str(target))
    except ModuleNotFoundError as error:
        hint = "pip install 'influcoder-lightning[hf]'" if error.name == "bitsandbytes" else ""
        raise ConfigError(
            f"{option}={target} needs {error.name}, which is not installed. {hint}"
        ) from error
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"{option}={target} cannot be imported: {error}.") from error
    if not callable(found):
        raise ConfigError(f"{option}={target} is no class.")
    return found


def _made(option: str, make: Callable[..., Any], first: object, given: Mapping[str, Any]) -> Any:
    try:
        return make(first, **given)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{name}={value!r:.60}" for name, value in given.items())
        raise ConfigError(f"{option}: {make.__name__}({shown}): {error}") from error


def _accepted(takes: Mapping[str, inspect.Parameter], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that a function takes."""
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    return {name: value for name, value in wanted.items() if any_name or name in takes}
