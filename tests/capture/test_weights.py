"""A row's weight: the training loss of a step is the sum of weight x sample loss over its rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import FineTuning, loader, tokens, trainer

from influcoder_lightning import InfluenceCallback, InfluenceStore, extract_features


class SampleMean(FineTuning):
    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none"
        )
        loss = (each.sum(1) / (labels != -100).sum(1)).mean()
        self.losses.append(float(loss.detach()))
        return loss


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("module", "reduction"), [(FineTuning, "token_mean"), (SampleMean, "sample_mean")]
)
def test_weights_times_losses_add_up_to_the_loss_of_the_step(
    tmp_path, module, reduction, accumulate
):
    user = module()
    callback = InfluenceCallback(
        str(tmp_path / "s"), loss_reduction=reduction, sketch_dim=64, code_dim=8
    )
    rows = loader(tokens(18), batch_size=3)
    trainer(tmp_path, [callback], accumulate_grad_batches=accumulate).fit(user, rows)
    records = InfluenceStore(tmp_path / "s").records()
    weighed = (records["weight"] * records["loss"]).groupby(records["step"]).sum()
    steps = np.array(user.losses).reshape(-1, accumulate).mean(1)
    np.testing.assert_allclose(weighed, steps, rtol=1e-5)
    np.testing.assert_allclose(records.groupby("step")["weight"].sum(), 1, rtol=1e-6)


def test_without_training_every_row_weighs_the_same(tmp_path):
    store = extract_features(FineTuning(), loader(tokens(5)), tmp_path, sketch_dim=64, code_dim=8)
    assert store.records()["weight"].tolist() == [1.0] * 5
