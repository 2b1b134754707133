"""The settings of a saved LoRA, from anywhere: plain values alone reach PEFT.

PEFT takes names in ``adapter_config.json`` for regular expressions, which can run for years, and
makes matrices of the ranks it names before it looks at the weights. So which modules are adapted,
and with which rank, is read from the weights; the settings must agree.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influcoder_lightning.files import read_whole

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_BYTES = 2**20
_MOST_TENSORS, _MOST_HEADER = 2**17, 2**24
_MOST_PATTERNS = 500  # each is compiled for every module; Python's cache holds 512
_MOST_SAVED = 16  # modules that are kept whole: each is copied
_NAME = re.compile(r"\^?[\w.-]{1,512}\$?")
_INIT = re.compile(r"gaussian|orthogonal|eva|olora|pissa|pissa_niter_[0-9]{1,2}")
_WEIGHT = re.compile(r"base_model\.model\.(.+)\.lora_(?:A|embedding_A)(?:\.weight)?")
# They say where the adapter is from and how its weights began, and do nothing to what is loaded.
_OF_THE_PAST = frozenset(
    {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
     "revision", "inference_mode", "megatron_core", "runtime_config", "eva_config",
     "corda_config", "lora_ga_config"}
)  # fmt: skip
# Told by the weights.
_WHICH = frozenset(
    {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
)  # fmt: skip
_FLAGS = ("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "ensure_weight_tying")


def lora_config(folder: Path, modules: Collection[str]) -> LoraConfig:
    """PEFT's ``LoraConfig`` of a saved adapter, naming the modules that its weights are of.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        modules: names of all modules of the model.

    Raises:
        ValueError: settings that are none of a LoRA, that are not supported, that do not agree
            with the weights, or name modules by a regular expression where a name belongs.
        OSError: a file that is too large.
    """
    from peft import LoraConfig

    settings = json.loads(read_whole(folder / CONFIG, _MOST_BYTES))
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise ValueError(f"{CONFIG} describes no LoRA")
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        raise ValueError(f"it is for task_type={settings['task_type']!r:.60}, and not CAUSAL_LM")
    ranks, tensors = ranks_of(folder / WEIGHTS)
    if missing := sorted(set(ranks) - set(modules)):
        raise ValueError(f"its weights are of modules that the model lacks: {_few(missing)}")
    known = {field.name: field.default for field in fields(LoraConfig)}
    options = _options(settings)
    _refuse_others(settings, options, known)
    _check_ranks(options, ranks)
    _check_saved(options["modules_to_save"], tensors)
    if unknown := sorted(key for key, value in options.items() if key not in known and value):
        raise ValueError(f"this release of peft knows no {unknown[0]}; upgrade peft")
    options = {key: value for key, value in options.items() if key in known}
    return LoraConfig(task_type="CAUSAL_LM", target_modules=sorted(ranks), **options)


def ranks_of(path: Path) -> tuple[dict[str, int], list[str]]:
    """Rank of each adapted module, and the names of all tensors, from a file's header alone.

    Raises:
        ValueError: it holds no LoRA weights, or too many tensors.
    """
    from safetensors import safe_open

    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > _MOST_HEADER:
            raise ValueError(f"{path.name} declares a header of more than {_MOST_HEADER:,} bytes")
    ranks: dict[str, int] = {}
    with safe_open(path, "pt") as weights:
        names = list(weights.keys())
        if len(names) > _MOST_TENSORS:
            raise ValueError(f"{path.name} holds more than {_MOST_TENSORS:,} tensors")
        for name in names:
            if found := _WEIGHT.fullmatch(name):
                ranks[found[1]] = int(weights.get_slice(name).get_shape()[0])
    if not ranks:
        raise ValueError(f"{path.name} holds no weights of a LoRA (base_model.model.*.lora_A)")
    return ranks, names


def _options(settings: Mapping[str, object]) -> dict[str, Any]:
    """The settings that matter, each of its kind."""
    options: dict[str, Any] = {name: _flag(settings, name) for name in _FLAGS}
    options |= {
        "r": settings.get("r", 8),
        "lora_alpha": _number("lora_alpha", settings.get("lora_alpha", 8)),
        "lora_dropout": _number("lora_dropout", settings.get("lora_dropout", 0.0)),
        "bias": settings.get("bias", "none"),
        "init_lora_weights": _init(settings.get("init_lora_weights", True)),
        "rank_pattern": _pattern("rank_pattern", settings.get("rank_pattern")),
        "alpha_pattern": _pattern("alpha_pattern", settings.get("alpha_pattern")),
        "modules_to_save": settings.get("modules_to_save") or None,
    }
    if options["bias"] not in ("none", "all", "lora_only"):
        raise ValueError(f"bias={options['bias']!r:.60} is none of none, all, lora_only")
    return options


def _refuse_others(
    settings: Mapping[str, object], options: Collection[str], defaults: Mapping[str, object]
) -> None:
    """Refuse settings that would make another adapter of it, and those of tomorrow's PEFT."""
    for key, value in settings.items():
        taken = key in options or key in _OF_THE_PAST | _WHICH
        if value and not taken and value != defaults.get(key):
            raise ValueError(
                f"{key}={value!r:.60} in {CONFIG} is not supported; train a plain LoRA, or merge "
                "the adapter into the model and give that as model.name"
            )


def _flag(settings: Mapping[str, object], name: str) -> bool:
    value = settings.get(name) or False
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r:.60} is neither true nor false")
    return value


def _number(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_sane(value):
        raise ValueError(f"{name}={value!s:.60} is no number that a LoRA could have")
    return value


def _is_sane(value: int | float) -> bool:
    return math.isfinite(value) and 0 <= value <= 2**24


def _init(value: object) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and _INIT.fullmatch(value)):
        return value
    raise ValueError(
        f"init_lora_weights={value!r:.60} is not supported; convert the adapter "
        "(path_initial_model_for_weight_conversion of save_pretrained)"
    )


def _pattern(name: str, value: object) -> dict[str, int | float]:
    """Numbers by names of modules: PEFT compiles the names, and some would run for ever."""
    pattern = value or {}
    if not isinstance(pattern, dict):
        raise ValueError(f"{name}={value!r:.60} must hold numbers by names of modules")
    if len(pattern) > _MOST_PATTERNS:
        raise ValueError(f"{name} has more than {_MOST_PATTERNS} entries")
    for key, number in pattern.items():
        _check_name(name, key)
        _number(f"{name}.{key}", number)
    return pattern


def _check_name(where: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{where} has {name!r:.60} where the name of a module belongs; regular expressions of "
            "others are not run: list the names of the modules instead"
        )


def _check_ranks(options: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
    """Refuse ranks that the weights do not have."""
    for name, rank in ranks.items():
        key = next((key for key in options["rank_pattern"] if _names(key, name)), None)
        told = options["r"] if key is None else options["rank_pattern"][key]
        if isinstance(told, bool) or not isinstance(told, int) or told != rank:
            where = "r" if key is None else f"rank_pattern.{key}"
            raise ValueError(f"{where}={told!r:.60} in {CONFIG}, and {name} has rank {rank}")


def _names(key: str, module: str) -> bool:
    """Whether a key of a pattern means a module, as PEFT has it."""
    key = key.removesuffix("$")
    if key.startswith("^"):
        return module == key[1:]
    return module == key or module.endswith(f".{key}")


def _check_saved(saved: object, tensors: Collection[str]) -> None:
    """Refuse modules that would be copied without weights of theirs being there."""
    if saved is None:
        return
    if not isinstance(saved, list) or len(saved) > _MOST_SAVED:
        raise ValueError(f"modules_to_save={saved!s:.60} must be a list of a few names")
    for name in saved:
        _check_name("modules_to_save", name)
        if not any(f".{name}." in tensor for tensor in tensors):
            raise ValueError(f"modules_to_save names {name!r:.60}, of which {WEIGHTS} has nothing")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
