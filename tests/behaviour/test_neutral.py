"""Training with the callback equals training without it, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from conftest import FineTuning, loader, tiny_peft, tokens, trainer
from lightning.pytorch.loggers import CSVLogger

from influcoder_lightning import InfluenceCallback


class Noisy(FineTuning):
    """Draws from every random stream in its training step, and logs."""

    def training_step(self, batch, batch_idx):
        self.draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        self.log("draws", sum(self.draws))
        return super().training_step(batch, batch_idx)


def run(folder, callbacks, **options):
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    model = tiny_peft(lora_dropout=0.2)
    model.train()
    module = Noisy(model)
    batches = loader(tokens(20, seed=21), 3, shuffle=True)
    options = {"max_epochs": 3, "log_every_n_steps": 1, "accumulate_grad_batches": 2} | options
    logger = CSVLogger(folder, name="log", version=0)
    fit = trainer(folder, callbacks, logger=logger, **options)
    fit.fit(module, batches)
    state = fit.optimizers[0].state_dict()
    streams = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # noqa: NPY002
    modes = [m.training for m in module.modules()]
    return module, state, streams, modes, fit.callback_metrics


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}])
@pytest.mark.parametrize("updates", [False, True], ids=["gradients", "updates too"])
def test_training_is_bitwise_unchanged(tmp_path, options, updates, sentence_encoder):
    plain = run(tmp_path / "plain", [], **options)
    callback = InfluenceCallback(
        str(tmp_path / "store"),
        query_dataloader=loader(tokens(5, seed=22), 2, num_workers=0),
        tokenizer=WordTokenizer(),
        text_encoder=sentence_encoder,
        co_train_every_n_steps=1,
        refresh_queries_every_n_steps=3,
        optimizer_features=updates,
        sketch_dim=256,
        code_dim=16,
    )
    valued = run(tmp_path / "valued", [callback], **options)
    assert valued[0].losses == plain[0].losses
    for a, b in zip(plain[0].state_dict().values(), valued[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for key, entry in plain[1]["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, valued[1]["state"][key][name])
    assert plain[2][0] == valued[2][0]
    assert plain[2][1] == valued[2][1]
    assert torch.equal(plain[2][2], valued[2][2])
    assert plain[3] == valued[3]
    for name, value in plain[4].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(valued[4][name]))


def test_gradients_are_the_same_objects_after_queries(tmp_path):
    """Queries run between backward and step would show in ``.grad``; they must not."""
    grads = {}

    class Watching(FineTuning):
        def on_before_optimizer_step(self, optimizer):
            grads.setdefault(self.trainer.global_step, []).append(
                torch.cat([p.grad.flatten().clone() for p in self.parameters() if p.requires_grad])
            )

    for callbacks in (
        [],
        [
            InfluenceCallback(
                str(tmp_path / "s"),
                query_dataloader=loader(tokens(3, seed=2)),
                refresh_queries_every_n_steps=1,
                sketch_dim=64,
                code_dim=8,
            )
        ],
    ):
        trainer(tmp_path, callbacks).fit(Watching(), loader(tokens(8, seed=1)))
    assert grads
    for first, second in grads.values():
        assert torch.equal(first, second)


def test_no_hook_is_left_behind(tmp_path):
    module = FineTuning()
    before = [len(m._forward_hooks) for m in module.modules()]
    callback = InfluenceCallback(str(tmp_path / "s"), sketch_dim=64, code_dim=8)
    trainer(tmp_path, [callback]).fit(module, loader(tokens(4)))
    assert [len(m._forward_hooks) for m in module.modules()] == before


class WordTokenizer:
    """Turns token ids into words; enough of a tokenizer for the text tower."""

    def batch_decode(self, ids, skip_special_tokens=True):
        return [" ".join(f"w{i}" for i in row) for row in ids]
