"""Training as people run it: accumulation schedules, low precision, scalers, clipping."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from capturing import assert_rows_equal_oracle, captured
from conftest import FineTuning, loader, oracle_gradient, relative_error, tiny_peft, tokens
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch import nn


class WideWeightGradient(torch.autograd.Function):
    """A low-precision linear whose weight gradient is summed and kept in float32."""

    @staticmethod
    def forward(ctx, x, weight, wide):
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        outer = torch.einsum("bto,bti->oi", grad.double(), x.double())
        return grad @ weight, None, outer.float()


def wide_oracle(model, row):
    """One-sample gradients of a bf16 model, without the rounding of a bf16 ``.grad``."""
    model = copy.deepcopy(model)
    wide = []
    for name, module in model.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            wide.append(torch.zeros(module.weight.shape, requires_grad=True))
            weight, target = module.weight, wide[-1]
            module.forward = lambda x, w=weight, t=target: WideWeightGradient.apply(x, w, t)
    used = row["attention_mask"].bool()
    logits = model(input_ids=row["input_ids"][used][None]).logits
    nn.functional.cross_entropy(logits[0, :-1].float(), row["labels"][used][1:]).backward()
    return torch.cat([gradient.grad.flatten() for gradient in wide])


def test_bf16_true(tmp_path):
    """Rows are summed in float32: nearer to the bf16 activations' gradient than ``.grad`` is."""
    rows = tokens(6, seed=41)
    module = FineTuning()
    before = copy.deepcopy(module.model).to(torch.bfloat16)
    store = captured(tmp_path, module, loader(rows, 6), precision="bf16-true")
    found = {record.sample_id: i for i, record in enumerate(store.records().itertuples())}
    ours, rounded = [], []
    for index, row in enumerate(rows):
        exact = wide_oracle(before, row)
        ours.append(relative_error(store.sketches()[found[index]], exact))
        rounded.append(relative_error(oracle_gradient(before, row).float(), exact))
    assert max(ours) <= 2e-2  # padding changes how a bf16 forward rounds, and so do machines
    alone = captured(tmp_path / "alone", FineTuning(), unpadded(rows), precision="bf16-true")
    exact = [relative_error(alone.sketches()[0], wide_oracle(before, rows[0]))]
    assert max(exact) <= 1e-5 < min(rounded)


def unpadded(rows):
    used = rows[0]["attention_mask"].bool()
    return loader([{name: value[used] for name, value in rows[0].items()}], 1)


def test_the_accumulation_scheduler(tmp_path):
    """The number of micro-batches per step changes between epochs; rows know their own."""
    rows = tokens(8, seed=42)
    module = FineTuning(rate=0.0)  # the weights stay where the oracle is
    before = copy.deepcopy(module.model)
    scheduler = GradientAccumulationScheduler({0: 1, 1: 4, 2: 3})
    store = captured(
        tmp_path, module, loader(rows, 2), callbacks=[scheduler], max_steps=-1, max_epochs=3
    )
    records = store.records()
    assert records.groupby("epoch").step.nunique().tolist() == [4, 1, 2]
    assert len(records) == 24
    assert_rows_equal_oracle(store, before, rows)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_clipping_accumulation_and_padding_together(tmp_path, algorithm, side):
    rows = tokens(6, seed=43, side=side)
    module = FineTuning(rate=0.0)
    before = copy.deepcopy(module.model)
    store = captured(
        tmp_path,
        module,
        loader(rows, 2),
        accumulate_grad_batches=2,
        gradient_clip_val=1e-4,
        gradient_clip_algorithm=algorithm,
        max_steps=-1,
    )
    assert len(store) == 6
    assert_rows_equal_oracle(store, before, rows)


class FakeScaler(Callback):
    """Does to the loss what an fp16 GradScaler does, which itself needs a GPU."""

    def __init__(self, scales):
        self.scales = scales

    def setup(self, trainer, pl_module, stage):
        plugin = trainer.strategy.precision_plugin
        plugin.scaler = self
        original = plugin.pre_backward
        plugin.pre_backward = lambda loss, m: original(loss * self.get_scale(), m)
        self.trainer = trainer

    def get_scale(self):
        return self.scales[min(self.trainer.global_step, len(self.scales) - 1)]


def test_a_scale_that_changes_between_steps(tmp_path):
    rows = tokens(8, seed=44)
    module = FineTuning(rate=0.0)
    before = copy.deepcopy(module.model)
    store = captured(
        tmp_path,
        module,
        loader(rows, 2),
        callbacks=[FakeScaler([32768.0, 65536.0])],
        accumulate_grad_batches=2,
        max_steps=-1,
    )
    assert len(store) == 8
    assert_rows_equal_oracle(store, before, rows)


def test_rows_that_overflow_under_the_scale_are_kept_out_and_counted(tmp_path):
    """A scale that overflows costs the optimizer its step and us the rows; the next are exact."""
    rows = tokens(8, seed=45)
    module = FineTuning(rate=0.0)

    def skip_the_step(optimizer):  # as the real scaler does
        for parameter in module.model.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)

    module.on_before_optimizer_step = skip_the_step
    before = copy.deepcopy(module.model)
    with pytest.warns(UserWarning, match="4 kept out: in a step that the GradScaler skipped"):
        store = captured(
            tmp_path,
            module,
            loader(rows, 4),
            callbacks=[FakeScaler([1e45, 1024.0])],
            max_steps=-1,
        )
    assert store.sample_ids.tolist() == [4, 5, 6, 7]
    assert_rows_equal_oracle(store, before, rows)


def test_bf16_mixed_left_padded_dora(tmp_path):
    rows = tokens(5, seed=46, side="left")
    module = FineTuning(tiny_peft(use_dora=True))
    before = copy.deepcopy(module.model)
    store = captured(tmp_path, module, loader(rows, 5), precision="bf16-mixed")
    oracle = partial(oracle_gradient, autocast=True)
    assert_rows_equal_oracle(store, before, rows, tolerance=2e-2, oracle=oracle)
