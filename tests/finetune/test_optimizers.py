"""Optimizers and schedules of the groups are those of the libraries they name."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch
from conftest import Samples, tiny_llama, tokens
from lightning.pytorch.callbacks import Callback

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.finetune.models import add_lora
from influcoder_lightning.finetune.optimizers import is_harmless, optimizer_of, schedule_of
from influcoder_lightning.finetune.training import train

LORA = {"r": 2, "alpha": 4, "target_modules": "all-linear"}
COSINE = {
    "_target_": "transformers.get_cosine_schedule_with_warmup",
    "num_warmup_steps": "warmup",
    "num_training_steps": "steps",
}


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def rates(steps: int, warmup: int, scheduler) -> list[float]:
    note = Rates()
    more = {"prompt": "", "response": "", "sample_id": 0}
    rows = Samples([{**row, **more} for row in tokens(8)])
    train(
        add_lora(tiny_llama(), LORA), rows, steps=steps, pad_token_id=0, batch_size=2, lr=0.1,
        warmup=warmup, scheduler=scheduler, callbacks=[note],
    )  # fmt: skip
    return note.seen


def test_a_schedule_goes_step_by_step_over_the_whole_training():
    rising = [0.1 * step / 2 for step in range(2)]
    falling = [0.05 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates(6, 2, COSINE) == pytest.approx(rising + falling)
    linear = COSINE | {"_target_": "transformers.get_linear_schedule_with_warmup"}
    assert rates(6, 2, linear) == pytest.approx(rising + [0.1 - 0.025 * s for s in range(4)])
    assert rates(4, 2, {"_target_": None}) == pytest.approx([0.05, 0.1, 0.1, 0.1])


def test_the_default_is_adamw_of_torch_over_the_lora_alone():
    model = add_lora(tiny_llama(), LORA)
    made = optimizer_of(model, {"_target_": "torch.optim.AdamW"}, 0.1, 0.2)
    assert type(made) is torch.optim.AdamW
    (group,) = made.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.2)
    assert {id(p) for p in group["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    own = {"_target_": "torch.optim.AdamW", "betas": [0.8, 0.9], "lr": 0.3, "amsgrad": None}
    assert optimizer_of(model, own, 0.1, 0.2).param_groups[0]["lr"] == 0.3


def test_lora_plus_lets_b_learn_faster_than_a():
    model = add_lora(tiny_llama(), LORA)
    section = {
        "_target_": "peft.optimizers.create_loraplus_optimizer",
        "optimizer_cls": "torch.optim.AdamW",
        "loraplus_lr_ratio": 16,
    }
    names = {id(p): name for name, p in model.named_parameters()}
    made = optimizer_of(model, section, 0.1, 0.2)
    for group in made.param_groups:
        for parameter in group["params"]:
            is_b = "lora_B" in names[id(parameter)]
            assert group["lr"] == pytest.approx(1.6 if is_b else 0.1)
            assert group["weight_decay"] == 0.2


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_eight_bits_are_those_of_bitsandbytes():
    from bitsandbytes.optim import AdamW8bit

    section = {"_target_": "bitsandbytes.optim.AdamW8bit"}
    assert type(optimizer_of(add_lora(tiny_llama(), LORA), section, 0.1, 0.0)) is AdamW8bit


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"_target_": "torch.optim.Nope"}, "optimizer._target_=torch.optim.Nope cannot be"),
        ({"_target_": "no_such_package.Adam"}, "needs no_such_package, which is not installed"),
        ({"_target_": "torch.optim.AdamW", "speed": 1}, "unexpected keyword argument 'speed'"),
        ({"_target_": "builtins.list"}, "makes no optimizer"),
    ],
)
def test_what_makes_no_optimizer_is_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        optimizer_of(add_lora(tiny_llama(), LORA), section, 0.1, 0.0)


def test_what_makes_no_schedule_is_refused():
    made = optimizer_of(add_lora(tiny_llama(), LORA), {"_target_": "torch.optim.SGD"}, 0.1, 0.0)
    with pytest.raises(ConfigError, match="scheduler: StepLR"):
        schedule_of(made, {"_target_": "torch.optim.lr_scheduler.StepLR", "pace": 2}, 6, 0)


def test_a_file_may_name_known_classes_alone():
    assert all(map(is_harmless, [None, "torch.optim.SGD", COSINE["_target_"]]))
    assert is_harmless("peft.optimizers.create_loraplus_optimizer")
    for target in ("os.system", "transformers.pipeline", "torch.load", "torch.optim.sgd.os", 3):
        assert not is_harmless(target)
