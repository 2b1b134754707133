"""The loader that goes on where it was, under the Trainer that resumes."""

from __future__ import annotations

import pytest
import torch
from conftest import FineTuning, Samples, tokens, trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from influcoder_lightning import EpochLoader, collate_with_sample_ids, with_sample_ids
from influcoder_lightning.errors import ConfigError

N, BATCH, STEPS = 22, 4, 14


class Note(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((trainer.current_epoch, trainer.global_step, list(batch["sample_id"])))


def batches():
    dataset = with_sample_ids(Samples(tokens(N)))
    return EpochLoader(dataset, BATCH, collate_with_sample_ids(), seed=3)


def fit(folder, ckpt=None):
    note = Note()
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
    options = {"enable_checkpointing": True, "max_steps": STEPS, "max_epochs": -1}
    trainer(folder, [note, saver], **options).fit(FineTuning(), batches(), ckpt_path=ckpt)
    return note.seen


def test_every_epoch_is_a_permutation_of_its_own():
    loader = batches()
    epochs = [[i for batch in loader for i in batch["sample_id"]] for _ in range(3)]
    assert len(loader) == 6
    assert all(sorted(map(int, epoch)) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [[i for batch in batches() for i in batch["sample_id"]]] == epochs[:1]


def test_a_run_resumed_at_any_step_sees_what_it_would_have_seen(tmp_path):
    """Also at the last batch of an epoch, where other loaders lose one."""
    whole = fit(tmp_path / "whole")
    assert [epoch for epoch, _, _ in whole] == [0] * 6 + [1] * 6 + [2] * 2
    for step in range(1, STEPS):
        ckpt = next((tmp_path / "whole").glob(f"*step={step}.ckpt"))
        assert fit(tmp_path / f"from {step}", str(ckpt)) == whole[step:]


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="every process the same batches"):
        next(iter(batches()))
