"""A saved LoRA loads as PEFT itself loads it, whatever way its settings name the modules."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_llama, tiny_peft, tokens
from peft import PeftModel

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.models import load_adapter

HANGS = "(a|a?)+" * 12 + "$"


def logits(model) -> torch.Tensor:
    ids = torch.stack([row["input_ids"] for row in tokens(2)])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"target_modules": r".*\.layers\.\d+\.self_attn\.(q|v)_proj"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"exclude_modules": r".*mlp.*"},
        {"rank_pattern": {"q_proj": 2, "^model.layers.0.self_attn.v_proj": 3}},
        {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"layers.1.self_attn.q_proj": 1}},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["v_proj"], "use_dora": True, "init_lora_weights": "gaussian"},
        {"target_modules": ["v_proj"], "init_lora_weights": "olora"},
    ],
    ids=str,
)
def test_a_saved_adapter_loads_as_peft_loads_it(lora, tmp_path):
    tiny_peft(**lora).save_pretrained(str(tmp_path))
    loaded = load_adapter(tiny_llama(), tmp_path)
    oracle = PeftModel.from_pretrained(tiny_llama(), str(tmp_path), is_trainable=True)
    assert torch.equal(logits(loaded), logits(oracle))
    trained = {name for name, p in oracle.named_parameters() if p.requires_grad}
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "layers_pattern"])
def test_a_regular_expression_of_a_file_is_not_run(key, tmp_path):
    tiny_peft().save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {key: HANGS, "layers_to_transform": [0]}))
    assert torch.equal(logits(load_adapter(tiny_llama(), tmp_path)), logits(tiny_peft()))


def test_ranks_are_held_against_the_weights(tmp_path):
    tiny_peft(rank_pattern={"q_proj": 2}).save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"rank_pattern": {"q_proj": 64}}))
    with pytest.raises(ConfigError, match=r"rank_pattern.q_proj=64 .* has rank 2"):
        load_adapter(tiny_llama(), tmp_path)
