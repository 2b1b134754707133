"""Rows captured inside a training step against one-sample autograd."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import (
    FineTuning,
    loader,
    oracle_gradient,
    relative_error,
    tiny_peft,
    tokens,
    trainer,
)

from influcoder_lightning import InfluenceCallback, InfluenceStore


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rows_equal_one_sample_autograd(tmp_path, side, batch_size):
    rows = tokens(batch_size, seed=1, side=side)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, batch_size))
    assert len(store) == batch_size
    assert_rows_equal_oracle(store, before, rows)


def test_accumulation_with_a_short_last_window(tmp_path):
    rows = tokens(10, seed=2)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 2), accumulate_grad_batches=8)
    assert len(store) == 10
    assert set(store.records().step) == {0}
    assert_rows_equal_oracle(store, before, rows)


def test_bf16_mixed_equals_bf16_autograd(tmp_path):
    rows = tokens(6, seed=3)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 6), precision="bf16-mixed")
    oracle = partial(oracle_gradient, autocast=True)
    assert_rows_equal_oracle(store, before, rows, tolerance=2e-2, oracle=oracle)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(tmp_path, reentrant):
    rows = tokens(5, seed=4)
    model = tiny_peft()
    before = copy.deepcopy(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    calls = []
    first = next(m for n, m in model.named_modules() if n.endswith("q_proj.lora_A.default"))
    first.register_forward_hook(lambda *_: calls.append(1))
    store = captured(tmp_path, FineTuning(model), loader(rows, 5), {"sanity_samples": 0})
    assert len(calls) == 2, "checkpointing was not active"
    assert_rows_equal_oracle(store, before, rows)


def test_dropout_rows_sum_to_the_parameter_gradient(tmp_path):
    """With dropout no second pass sees the same mask; but weighted rows sum to ``.grad``."""
    rows = tokens(6, seed=5)
    module = FineTuning(tiny_peft(lora_dropout=0.3))
    seen = {}

    def on_before_optimizer_step(optimizer):
        seen["grad"] = torch.cat(
            [p.grad.flatten() for n, p in module.model.named_parameters() if "lora_" in n]
        )

    module.on_before_optimizer_step = on_before_optimizer_step
    module.model.train()
    store = captured(tmp_path, module, loader(rows, 6))
    n = torch.tensor(store.records().n_tokens.to_numpy())
    weights = (n / n.sum()).float()
    total = (weights[:, None] * torch.tensor(store.sketches())).sum(0)
    order = store.layers
    by_name = {
        layer.name: (layer.offset, layer.out_features * layer.in_features)
        for layer in order.itertuples()
    }
    names = [n for n, p in module.model.named_parameters() if "lora_" in n]
    reordered = torch.cat([total[o : o + s] for o, s in (by_name[name] for name in names)])
    assert relative_error(reordered, seen["grad"]) <= 1e-5


def test_a_module_called_twice_is_summed_before_its_norm(tmp_path):
    rows = tokens(4, seed=6)
    model = tiny_peft()
    layers = model.base_model.model.model.layers
    layers[1].mlp = layers[0].mlp  # a shared block
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert_rows_equal_oracle(store, before, rows)


def test_only_the_active_adapter_is_captured(tmp_path):
    from peft import LoraConfig

    rows = tokens(4, seed=7)
    model = tiny_peft()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("default")
    before = copy.deepcopy(model)
    store = captured(tmp_path, FineTuning(model), loader(rows, 4))
    assert not store.layers.name.str.contains("other").any()
    assert_rows_equal_oracle(store, before, rows)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"target_modules": ["q_proj", "v_proj"]},
        {"r": 1},
        {"lora_bias": True},
        {"lora_bias": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ],
)
def test_lora_settings(tmp_path, lora):
    rows = tokens(4, seed=8)
    module = FineTuning(tiny_peft(**lora))
    before = copy.deepcopy(module.model)
    assert_rows_equal_oracle(captured(tmp_path, module, loader(rows, 4)), before, rows)


def test_the_bias_of_a_lora_takes_part_in_rows_and_new_queries(tmp_path):
    rows, asked = tokens(4, seed=8), tokens(2, seed=9)
    module = FineTuning(tiny_peft(lora_bias=True))
    with torch.no_grad():
        for name, parameter in module.model.named_parameters():
            if name.endswith("bias") and "lora_B" in name:
                parameter.normal_()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 4), {"query_dataloader": loader(asked, 2)})
    biases = store.layers[store.layers.name.str.endswith("bias")]
    assert len(biases) == len(store.layers) / 3
    for layer in biases.itertuples():
        part = slice(layer.offset, layer.offset + layer.out_features)
        assert np.abs(store.sketches()[:, part]).min(axis=0).max() > 0
    store.add_queries(before, [{**batch, "sample_id": [100, 101]} for batch in loader(asked, 2)])
    first, again = store.query_sketches(window=0).reshape(2, 2, -1)
    assert relative_error(torch.tensor(again), torch.tensor(first)) <= 1e-5


def test_lora_injected_by_transformers(tmp_path):
    from conftest import tiny_llama
    from peft import LoraConfig

    model = tiny_llama()
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    rows = tokens(4, seed=18)
    before = copy.deepcopy(model)
    store = captured(
        tmp_path,
        FineTuning(model),
        loader(rows, 4),
        {"query_dataloader": loader(tokens(2, seed=19), 2)},
    )
    assert_rows_equal_oracle(store, before, rows)


class OtherLoss(FineTuning):
    def __init__(self, reduction):
        super().__init__()
        self.reduction = reduction

    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][:, 1:]
        token = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels, reduction="none"
        )
        own = token.sum(1) / (labels != -100).sum(1)
        if self.reduction == "sum":
            return token.sum()
        if self.reduction == "sample_mean":
            return own.mean()
        return (torch.arange(1, len(own) + 1) * own).sum()


@pytest.mark.parametrize("reduction", ["sum", "sample_mean", "callable"])
def test_loss_reductions_are_undone(tmp_path, reduction):
    rows = tokens(5, seed=9)
    module = OtherLoss(reduction)
    before = copy.deepcopy(module.model)
    declared = reduction
    if reduction == "callable":

        def declared(batch):
            return torch.arange(1.0, len(batch["labels"]) + 1)

    store = captured(tmp_path, module, loader(rows, 5), {"loss_reduction": declared})
    assert_rows_equal_oracle(store, before, rows)


def test_a_wrong_loss_reduction_is_noticed_without_the_self_check(tmp_path):
    options = {"sanity_samples": 0}
    with pytest.warns(UserWarning, match="implies a training loss of"):
        captured(tmp_path, OtherLoss("sum"), loader(tokens(5, seed=9), 5), options)


def test_the_amp_scale_is_undone(tmp_path):
    """A stand-in for the fp16 GradScaler, which needs a GPU: it scales the loss by 128."""
    rows = tokens(4, seed=10)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    callback = InfluenceCallback(
        str(tmp_path / "store"), projector="identity", keep_sketches=True, co_train=False
    )
    run = trainer(tmp_path, [callback], max_steps=1)

    class Scaler:
        def get_scale(self):
            return 128.0

    plugin = run.strategy.precision_plugin
    plugin.scaler = Scaler()
    original = plugin.pre_backward
    plugin.pre_backward = lambda tensor, m: original(tensor * 128.0, m)
    run.fit(module, loader(rows, 4))
    assert_rows_equal_oracle(InfluenceStore(tmp_path / "store"), before, rows)


def test_losses_are_each_samples_own(tmp_path):
    rows = tokens(5, seed=11)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 5))
    for record in store.records().itertuples():
        row = rows[record.sample_id]
        with torch.no_grad():
            out = before(row["input_ids"][None], attention_mask=row["attention_mask"][None])
            loss = torch.nn.functional.cross_entropy(out.logits[0, :-1], row["labels"][1:])
        assert record.loss == pytest.approx(float(loss), rel=1e-4)


def test_clipping_does_not_touch_the_rows(tmp_path):
    rows = tokens(4, seed=12)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 4), gradient_clip_val=1e-3)
    assert_rows_equal_oracle(store, before, rows)


def test_a_sample_without_response_is_kept_out_and_counted(tmp_path):
    rows = tokens(4, seed=13)
    rows[2]["labels"][:] = -100
    module = FineTuning()
    before = copy.deepcopy(module.model)
    with pytest.warns(UserWarning, match="1 kept out: no response token"):
        store = captured(tmp_path, module, loader(rows, 4))
    assert store.sample_ids.tolist() == [0, 1, 3]
    assert_rows_equal_oracle(store, before, rows)


def test_duplicate_ids_stay_separate_rows(tmp_path):
    from influcoder_lightning import collate_with_sample_ids, with_sample_ids

    rows = tokens(4, seed=14)
    data = torch.utils.data.DataLoader(
        with_sample_ids(rows, ids=["a", "b", "a", "c"]),
        batch_size=4,
        collate_fn=collate_with_sample_ids(),
    )
    store = captured(tmp_path, FineTuning(), data)
    assert store.sample_ids.tolist() == ["a", "b", "a", "c"]
    assert not torch.equal(*(torch.tensor(store.sketches()[i]) for i in (0, 2)))


def test_tuple_batches(tmp_path):
    class TupleModule(FineTuning):
        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.model(input_ids=x, labels=y).loss

    full = [r for r in tokens(40, seed=15) if int(r["attention_mask"].sum()) == 10][:3]
    rows = [{k: v[:10] for k, v in row.items()} for row in full]
    module = TupleModule()
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader([(r["input_ids"], r["labels"]) for r in rows], 3))
    assert_rows_equal_oracle(store, before, rows)


def test_every_n_train_steps_takes_all_micro_batches_of_a_step(tmp_path):
    rows = tokens(16, seed=16)
    callback = InfluenceCallback(
        str(tmp_path / "store"), every_n_train_steps=2, co_train=False, sketch_dim=64, code_dim=8
    )
    trainer(tmp_path, [callback], accumulate_grad_batches=2).fit(FineTuning(), loader(rows, 2))
    records = InfluenceStore(tmp_path / "store").records()
    assert records.groupby("step").size().to_dict() == {0: 4, 2: 4}
    assert records.sample_id.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_countsketch_is_linear_and_nearly_isometric(tmp_path):
    rows = tokens(12, seed=17)
    module = FineTuning()
    before = copy.deepcopy(module.model)
    callback = InfluenceCallback(
        str(tmp_path / "store"), keep_sketches=True, co_train=False, sketch_dim=4096
    )
    trainer(tmp_path, [callback], max_steps=1).fit(module, loader(rows, 12))
    sketches = torch.tensor(InfluenceStore(tmp_path / "store").sketches())
    exact = torch.stack([oracle_gradient(before, row) for row in rows])
    cosines = [torch.nn.functional.normalize(m, dim=1) for m in (sketches, exact)]
    assert (cosines[0] @ cosines[0].T - cosines[1] @ cosines[1].T).abs().max() < 0.1
