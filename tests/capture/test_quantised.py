"""LoRA layers on quantised bases: a stand-in with the forward of peft's own kinds, run on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import FineTuning, loader, tiny_llama, tokens
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from influcoder_lightning.capture.layers import find_lora_linears
from influcoder_lightning.errors import CaptureError


class Int8Linear(nn.Module):
    """A base with int8 weights and one scale per row, as a quantisation library would hold it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        quantised = (linear.weight.detach() / scale).round().to(torch.int8)
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter(quantised, requires_grad=False)

    def forward(self, x):
        weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)
        return nn.functional.linear(x, weight)


class QuantisedLora(nn.Module, LoraLayer):
    """The forward of peft's bnb layers, step by step."""

    def __init__(self, base_layer, adapter_name, config, r=0, lora_alpha=1, **kwargs):
        super().__init__()
        LoraLayer.__init__(self, base_layer)
        self.fan_in_fan_out = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)

    def forward(self, x, *args, **kwargs):
        result = self.base_layer(x, *args, **kwargs).clone()
        for adapter in self.active_adapters:
            if adapter not in self.lora_A.keys():  # noqa: SIM118 (a ModuleDict)
                continue
            converts = not torch.is_autocast_enabled()
            if converts:
                expected = result.dtype
                x = self._cast_input_dtype(x, self.lora_A[adapter].weight.dtype)
            dropped = self.lora_dropout[adapter](x)
            output = self.lora_B[adapter](self.lora_A[adapter](dropped)) * self.scaling[adapter]
            result = result + (output.to(expected) if converts else output)
        return result


def quantised_peft(kind, **lora):
    base = tiny_llama()
    targets = ["q_proj", "v_proj", "down_proj"]
    for name, module in list(base.named_modules()):
        if name.endswith(tuple(targets)):
            parent = base.get_submodule(name.rsplit(".", 1)[0])
            setattr(parent, name.rsplit(".", 1)[1], Int8Linear(module))
    layer = type("Linear4bit", (QuantisedLora,), {"__module__": f"peft.tuners.lora.{kind}"})
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **lora)
    config._register_custom_module({Int8Linear: layer})
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    assert sum(isinstance(m, layer) for m in model.modules()) == 6
    return model


@pytest.mark.parametrize("kind", ["bnb", "gptq", "awq", "aqlm", "hqq", "eetq", "torchao", "inc"])
def test_quantised_bases(tmp_path, kind):
    rows = tokens(4, seed=31)
    model = quantised_peft(kind)
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert len(store.layers) == 12
    assert_rows_equal_oracle(store, before, rows)


@pytest.mark.parametrize("reentrant", [True, False])
def test_qlora_with_checkpointing_and_rslora(tmp_path, reentrant):
    rows = tokens(4, seed=32)
    model = quantised_peft("bnb", use_rslora=True)
    before = copy.deepcopy(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    store = captured(tmp_path, FineTuning(model.train()), loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows)


def test_an_unknown_layer_kind_is_refused_by_name():
    with pytest.raises(CaptureError, match=r"kind secret\.Linear4bit"):
        find_lora_linears(quantised_peft("secret"))


def test_an_unknown_variant_is_refused_by_name():
    model = quantised_peft("bnb")
    layer = next(m for m in model.modules() if isinstance(m, QuantisedLora))
    layer.lora_variant["default"] = type("ALoraLinearVariant", (), {})()
    with pytest.raises(CaptureError, match="ALoraLinearVariant"):
        find_lora_linears(model)
