"""The loader that goes on where it was, under the Trainer that resumes."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from conftest import FineTuning, Samples, tokens, trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from influcoder_lightning import EpochLoader, collate_with_sample_ids, with_sample_ids

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


@contextmanager
def process(rank, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "get_rank", lambda: rank)
        patch.setattr(torch.distributed, "get_world_size", lambda: size)
        yield


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3))
def test_processes_take_the_batches_of_one_in_turn(n, batch_size, size, seed):
    """In every step together what one process sees in as many micro-batches, each sample once."""
    whole = [i for batch in EpochLoader(range(n), batch_size, list, seed) for i in batch]
    dealt, real = [], []
    for rank in range(size):
        with process(rank, size):
            loader = EpochLoader(range(n), batch_size, list, seed)
            batches = list(loader)
            before = loader.n_before_padding()
            assert len(loader) == len(batches)
        dealt.append(batches)
        own = [i for batch in batches for i in batch]
        real += own if before is None else own[:before]
    assert sorted(real) == list(range(n))
    assert len(set(map(len, dealt))) == 1
    assert len({len(batches[-1]) for batches in dealt}) == 1
    repeated = sum(len(batch) for batches in dealt for batch in batches) - n
    assert 0 <= repeated < size
    for step, start in enumerate(range(0, n, batch_size * size)):
        together = [i for batches in dealt for i in batches[step]]
        expected = whole[start : start + batch_size * size]
        assert together[: len(expected)] == expected
        if len(expected) == batch_size * size:
            assert [len(batches[step]) for batches in dealt] == [batch_size] * size
