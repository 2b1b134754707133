"""The adapter of a window: kept beside the store, so that new queries can be valued later."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from influcoder_lightning.capture.layers import lora_layers
from influcoder_lightning.errors import CaptureError, StoreError
from influcoder_lightning.files import disk_errors, durable_tree, write_new
from influcoder_lightning.tensors import read_tensors, tensor_blocks

_WEIGHTS = "adapter_model.safetensors"


def active_adapter(model: nn.Module) -> str:
    """Name of the one active adapter.

    Raises:
        CaptureError: more than one is active.
    """
    # The layers themselves know: a model they were injected into has no list of its own.
    names = list(dict.fromkeys(str(n) for _, x in lora_layers(model) for n in x.active_adapters))
    if len(names) != 1:
        raise CaptureError(
            f"{len(names)} adapters are active ({', '.join(names)}); influence is defined for one. "
            "Activate the one that is trained with `model.set_adapter(name)`."
        )
    return names[0]


def adapter_description(model: Any) -> dict[str, object]:
    """Model class, base model and the LoRA settings that decide what a gradient means."""
    adapter = active_adapter(model)
    config = model.peft_config[adapter]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    targets = config.target_modules
    return {
        "model": type(base).__name__,
        "base_model": str(config.base_model_name_or_path),
        "adapter": adapter,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": sorted(targets) if isinstance(targets, set | list) else targets,
    }


def save_adapter(model: Any, folder: Path, *, write: bool = True) -> None:
    """Write the active adapter in PEFT's own layout (``PeftModel.from_pretrained`` reads it).

    Of a sharded model every process calls it, and the one with ``write`` writes.
    """
    from peft import get_peft_model_state_dict

    adapter = active_adapter(model)
    with warnings.catch_warnings():  # of lora_bias: a vector looks to peft like a lost shard
        warnings.filterwarnings("ignore", message=".*LoRA tensor.* have invalid shape")
        state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    copies = {k: _whole(v).cpu().contiguous().clone() for k, v in state.items()}  # tied ones too
    if not write:
        return
    hint = "Every sealed row is safe: make room, or go on from a checkpoint."
    with disk_errors(f"the adapter {folder}", hint), durable_tree(folder) as part:
        write_new(part / _WEIGHTS, tensor_blocks(copies))
        model.peft_config[adapter].save_pretrained(str(part))


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextmanager
def adapter_loaded(model: Any, folder: Path) -> Iterator[None]:
    """``model`` with the adapter saved in ``folder``; its own is put back afterwards.

    Raises:
        StoreError: the file is missing or does not fit the model.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    adapter = active_adapter(model)
    # Not only A and B: DoRA's magnitudes and `modules_to_save` are loaded too.
    live = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    before = {name: value.detach().clone() for name, value in live.items()}
    try:
        try:
            state = read_tensors(folder / _WEIGHTS)
            result: Any = set_peft_model_state_dict(model, state, adapter_name=adapter)
            if result.unexpected_keys:
                raise ValueError(f"unexpected weights {result.unexpected_keys[:3]}")
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise StoreError(
                f"the adapter in {folder} does not fit this model: {error}. Pass the model with "
                "the LoRA settings of the run (see the store's `lora` attribute)."
            ) from error
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                live[name].copy_(value)  # a view of the model's own tensor
