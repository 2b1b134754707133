"""LoRA as people use it: every row is exact, against one-sample autograd on the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import FineTuning, loader, oracle_gradient, tiny_peft, tokens
from torch import nn


def named_oracle(model, row):
    """As `oracle_gradient`, from the parameters themselves: each one once, where it comes first."""
    used = row["attention_mask"].bool()
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=row["input_ids"][used][None]).logits
    nn.functional.cross_entropy(logits[0, :-1].float(), row["labels"][used][1:]).backward()
    found = [p.grad.flatten() for n, p in model.named_parameters() if ".lora_" in n]
    return torch.cat(found)


class RecordedDropout(nn.Dropout):
    """Dropout whose masks can be replayed for one sample alone."""

    def forward(self, x):
        if getattr(self, "replay", None) is not None:
            row, used = self.replay
            return x * self.mask[row : row + 1, used]
        self.mask = nn.functional.dropout(torch.ones_like(x), self.p, self.training)
        return x * self.mask


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dora", [False, True])
def test_dora_and_dropout(tmp_path, dora, dropout):
    rows = tokens(5, seed=21)
    model = tiny_peft(use_dora=dora, lora_dropout=dropout).train()
    recorders = []
    for module in model.modules():
        if dropout and hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = RecordedDropout(dropout)
            recorders.append(module.lora_dropout["default"])
    before = copy.deepcopy(model).train()
    store = captured(tmp_path, FineTuning(model), loader(rows, 5))
    replayers = [m for m in before.modules() if isinstance(m, RecordedDropout)]

    def oracle(model, row):
        index = next(i for i, other in enumerate(rows) if other is row)
        for recorder, replayer in zip(recorders, replayers, strict=True):
            replayer.mask = recorder.mask
            replayer.replay = (index, row["attention_mask"].bool())
        return oracle_gradient(model, row)

    assert_rows_equal_oracle(store, before, rows, oracle=oracle)
    if dropout:  # the masks were at work
        assert any(bool((recorder.mask == 0).any()) for recorder in recorders)


def test_doras_magnitudes_are_named_as_not_captured(tmp_path):
    with pytest.warns(UserWarning, match="no part of the influence feature.*lora_magnitude_vector"):
        store = captured(tmp_path, FineTuning(tiny_peft(use_dora=True)), loader(tokens(4), 4))
    assert not store.layers.name.str.contains("magnitude").any()


def test_dora_in_a_layer_called_twice_and_checkpointed(tmp_path):
    rows = tokens(4, seed=22)
    model = tiny_peft(use_dora=True)
    layers = model.base_model.model.model.layers
    layers[1].mlp = layers[0].mlp
    before = copy.deepcopy(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    store = captured(tmp_path, FineTuning(model.train()), loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows)


def test_modules_to_save_are_trained_but_not_captured(tmp_path):
    rows = tokens(4, seed=23)
    model = tiny_peft(modules_to_save=["lm_head"])
    before = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="no part of the influence feature.*lm_head"):
        store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert not store.layers.name.str.contains("lm_head").any()
    assert_rows_equal_oracle(store, before, rows)


@pytest.mark.parametrize("share", ["weight", "module", "layer"])
def test_tied_adapters_are_one_parameter(tmp_path, share):
    """A tied weight has one gradient, the sum over its uses: one entry, summed before its norm."""
    rows = tokens(4, seed=24)
    model = tiny_peft()
    first, second = (layer.self_attn for layer in model.base_model.model.model.layers)
    for part in ("lora_A", "lora_B"):
        if share == "weight":
            getattr(second.q_proj, part).default.weight = getattr(first.q_proj, part).default.weight
        elif share == "module":
            getattr(second.q_proj, part)["default"] = getattr(first.q_proj, part)["default"]
    if share == "layer":
        second.q_proj = first.q_proj
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert store.layers.name.str.contains("q_proj.lora_A").sum() == 1
    assert_rows_equal_oracle(store, before, rows, oracle=named_oracle)


def test_a_subset_of_trained_weights(tmp_path):
    """LoRA-FA trains B only; a pattern chooses the layers."""
    rows = tokens(4, seed=25)
    model = tiny_peft(target_modules=r".*\.(up_proj|q_proj)")
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert len(store.layers) == 4
    assert_rows_equal_oracle(store, before, rows)


def test_rank_and_alpha_patterns_and_layer_subsets(tmp_path):
    rows = tokens(4, seed=26)
    model = tiny_peft(
        use_rslora=True,
        target_modules=["q_proj", "down_proj"],
        layers_to_transform=[1],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"q_proj": 3},
    )
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert set(store.layers.out_features) == {2, 4, 16}
    assert_rows_equal_oracle(store, before, rows)


def test_switching_to_another_adapter_between_fits(tmp_path):
    from peft import LoraConfig

    rows = tokens(4, seed=27)
    model = tiny_peft()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    for name, parameter in model.named_parameters():
        if "lora_B.other" in name:
            nn.init.normal_(parameter, std=0.05)
    captured(tmp_path / "one", FineTuning(model), loader(rows, 4))
    model.set_adapter("other")
    before = copy.deepcopy(model)
    store = captured(tmp_path / "two", FineTuning(model), loader(rows, 4))
    assert store.layers.name.str.endswith(".other.weight").all()
    assert_rows_equal_oracle(store, before, rows)


def test_a_saved_dora_adapter_is_put_back_whole(tmp_path):
    """Valuing under an earlier adapter loads and restores magnitudes and saved modules too."""
    from influcoder_lightning.capture.adapters import adapter_loaded, save_adapter

    model = tiny_peft(use_dora=True, modules_to_save=["lm_head"])
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_adapter(model, tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    second = {name: p.detach().clone() for name, p in model.named_parameters()}
    with adapter_loaded(model, tmp_path):
        assert all(torch.equal(p, first[n]) for n, p in model.named_parameters())
    assert all(torch.equal(p, second[n]) for n, p in model.named_parameters())
