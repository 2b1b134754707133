"""Fits with and without the callback are the same to the last bit, whatever the LoRA looks like."""

from __future__ import annotations

import pytest
import torch
from capturing import captured
from conftest import FineTuning, loader, tiny_peft, tokens, trainer
from lightning.pytorch import seed_everything
from peft import LoraConfig

from influcoder_lightning.capture.adapters import active_adapter
from influcoder_lightning.errors import CaptureError


def dora():
    return tiny_peft(use_dora=True, lora_dropout=0.2)


def saved_head():
    return tiny_peft(modules_to_save=["lm_head"], lora_dropout=0.2)


def tied():
    model = tiny_peft()
    first, second = (layer.self_attn for layer in model.base_model.model.model.layers)
    second.q_proj.lora_A.default.weight = first.q_proj.lora_A.default.weight
    return model


def checkpointed():
    model = tiny_peft(use_dora=True, use_rslora=True)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


@pytest.mark.filterwarnings("ignore:influcoder")
@pytest.mark.parametrize("build", [dora, saved_head, tied, checkpointed])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("updates", [False, True], ids=["gradients", "updates too"])
def test_training_is_untouched(tmp_path, build, precision, updates):
    rows, ends = tokens(8, seed=71), []
    valued = {"optimizer_features": updates}
    options = {"precision": precision, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
    for watched in (False, True):
        module = FineTuning(build())
        seed_everything(7, verbose=False)
        if watched:
            captured(tmp_path, module, loader(rows, 2), valued, max_steps=-1, **options)
        else:
            trainer(tmp_path, **options).fit(module, loader(rows, 2))
        ends.append((module.losses, [p.detach().clone() for p in module.parameters()]))
    assert ends[0][0] == ends[1][0]
    assert all(map(torch.equal, ends[0][1], ends[1][1]))


def test_two_active_adapters_are_refused_by_name(tmp_path):
    model = tiny_peft()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(CaptureError, match=r"2 adapters are active \(default, other\)"):
        active_adapter(model.base_model)
    with pytest.raises(CaptureError, match="set_adapter"):
        captured(tmp_path, FineTuning(model), loader(tokens(2), 2))
