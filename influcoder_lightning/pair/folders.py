"""The two adapters of a direction as folders that PEFT, and engines that serve LoRA, read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from influcoder_lightning.capture.adapters import active_adapter, save_adapter
from influcoder_lightning.capture.layers import lora_layers
from influcoder_lightning.errors import CaptureError
from influcoder_lightning.files import durable_tree, write_new
from influcoder_lightning.finetune.saved_adapter import WEIGHTS
from influcoder_lightning.pair.scores import AdapterPair
from influcoder_lightning.tensors import tensor_blocks

PLUS, MINUS = "plus", "minus"


def write_pair(pair: AdapterPair, folder: Path) -> None:
    """Write ``plus`` and ``minus`` below a folder; on return they are whole.

    Ranks and alphas that differ between modules become one rank and one scale, since few engines
    know others: A and B are filled up with zeros, and B takes the scale.
    """
    for name, sign in ((PLUS, 1), (MINUS, -1)):
        with pair.moved(sign):
            _write(pair.model, folder / name)


def _write(model: Any, folder: Path) -> None:
    config = model.peft_config[active_adapter(model)]
    if not (config.rank_pattern or config.alpha_pattern):
        save_adapter(model, folder)
        return
    alike = copy.deepcopy(config)
    alike.rank_pattern, alike.alpha_pattern = {}, {}
    adapter = active_adapter(model)
    layers: dict[str, Any] = dict(lora_layers(model))
    alike.r = max(layer.r[adapter] for layer in layers.values())
    alike.lora_alpha = alike.r if not alike.use_rslora else alike.r**0.5  # a scale of 1
    state: dict[str, Tensor] = {}
    for name, layer in layers.items():
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        own = name if name.startswith("base_model.model.") else f"base_model.model.{name}"
        state[f"{own}.lora_A.weight"] = _filled(a, 0, alike.r)
        state[f"{own}.lora_B.weight"] = _filled(b * layer.scaling[adapter], 1, alike.r)
    with durable_tree(folder) as part:
        write_new(part / WEIGHTS, tensor_blocks(state))
        alike.save_pretrained(str(part))


def _filled(weight: Tensor, dim: int, rank: int) -> Tensor:
    """The weight with zeros up to ``rank`` along a dimension."""
    missing = rank - weight.shape[dim]
    if missing < 0:
        raise CaptureError(f"a rank of {weight.shape[dim]} is larger than the largest, {rank}")
    shape = list(weight.shape)
    shape[dim] = missing
    zeros = weight.new_zeros(shape)
    return torch.cat([weight.detach(), zeros], dim).cpu().contiguous()
