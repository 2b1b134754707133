"""fp16 training with a real GradScaler: skipped steps leave no row, queries are scaled as well."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import FineTuning, loader, oracle_gradient, relative_error, tiny_peft, tokens, trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from influcoder_lightning import InfluenceCallback, InfluenceStore


def fit(folder, module, batches, init_scale=65536.0, queries=None, **options):
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    callback = InfluenceCallback(
        str(folder / "s"),
        query_dataloader=queries,
        projector="identity",
        keep_sketches=True,
        co_train=False,
        code_dim=8,
        sanity_samples=0,  # without the scale gradients vanish, which it would notice
    )
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer(folder, [callback], plugins=[plugin], **options).fit(module, batches)
    return InfluenceStore(folder / "s")


class Once(FineTuning):
    """One micro-batch's loss is beyond fp16, so that the scaler skips its step."""

    def __init__(self, at):
        super().__init__()
        self.at, self.states = at, []

    def training_step(self, batch, batch_idx):
        self.states.append(self.weights())
        loss = super().training_step(batch, batch_idx)
        return loss * 1e38 if batch_idx == self.at else loss

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.parameters() if p.requires_grad])


@pytest.mark.parametrize(("accumulate", "lost"), [(1, [8, 9, 10, 11]), (2, list(range(8, 16)))])
def test_a_skipped_step_leaves_no_row_and_is_counted(tmp_path, accumulate, lost):
    module = Once(at=2)
    words = f"{len(lost)} kept out: in a step that the GradScaler skipped"
    with pytest.warns(UserWarning, match=words):
        store = fit(
            tmp_path, module, loader(tokens(24), 4), 1024.0, accumulate_grad_batches=accumulate
        )
    assert torch.equal(module.states[2], module.states[3])  # the weights did not move
    assert store.sample_ids.tolist() == [i for i in range(24) if i not in lost]
    assert store.attributes["counts"]["seen"] == 24


def test_the_query_pass_is_scaled_as_the_training_is(tmp_path):
    """Gradients of long samples are small enough to vanish in fp16 without the scale."""
    rows = tokens(2, seed=91)
    model = tiny_peft()
    with torch.no_grad():  # a head whose gradients are far below fp16's smallest number
        model.base_model.model.lm_head.weight.mul_(3e-4)
    exact = [oracle_gradient(copy.deepcopy(model).double(), row) for row in rows]
    errors = {}
    for scale in (1.0, 65536.0):
        module, folder = FineTuning(copy.deepcopy(model), rate=0.0), tmp_path / str(scale)
        store = fit(folder, module, loader(tokens(4), 4), scale, queries=loader(rows, 2))
        pairs = zip(store.query_sketches(0), exact, strict=True)
        errors[scale] = max(relative_error(*pair) for pair in pairs)
    assert errors[65536.0] <= 5e-3
    assert errors[1.0] > 5 * errors[65536.0], "this is what the scale is for"


def test_a_scale_that_overflows_the_queries_is_lowered_for_them(tmp_path):
    rows = tokens(2, seed=92)
    module = FineTuning(rate=0.0)
    exact = [oracle_gradient(copy.deepcopy(module.model).double(), row) for row in rows]
    batches, queries = loader(tokens(4), 4), loader(rows, 2)
    with pytest.warns(UserWarning, match="GradScaler skipped"):
        store = fit(tmp_path, module, batches, init_scale=2.0**40, queries=queries)
    assert np.isfinite(store.query_sketches(0)).all()
    for value, reference in zip(store.query_sketches(0), exact, strict=True):
        assert relative_error(value, reference) <= 3e-3
